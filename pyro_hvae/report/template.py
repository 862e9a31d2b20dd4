"""The page of the report. A string, so that it travels with the package and needs no file beside it."""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="generator" content="pyro_hvae.report">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
  body { font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
         color: #1b1f24; background: #fff; margin: 0 auto; padding: 2rem 1.5rem 4rem;
         max-width: {{ "1000px" if headings|length == 1 else "1500px" }}; }
  h1 { font-size: 1.7rem; margin: 0 0 .2rem; }
  h2 { font-size: 1.25rem; margin: 2.8rem 0 .4rem; padding-top: .8rem; border-top: 1px solid #d5d9de; }
  h3 { font-size: 1rem; margin: 1.2rem 0 .3rem; }
  p, li { max-width: 46rem; }
  nav { margin: .8rem 0 1.2rem; } nav a { margin-right: 1rem; white-space: nowrap; }
  a { color: #0072b2; text-decoration: none; } a:hover { text-decoration: underline; }
  .muted { color: #5b6570; } .small { font-size: .875rem; }
  .scroll { overflow-x: auto; }
  table { border-collapse: collapse; margin: .6rem 0 1rem; font-size: .9rem; font-variant-numeric: tabular-nums; }
  th, td { text-align: left; padding: .25rem 1.4rem .25rem 0; border-bottom: 1px solid #e6e9ed; vertical-align: top; }
  thead th { border-bottom: 1.5px solid #1b1f24; } tbody th { font-weight: normal; }
  td .n { color: #5b6570; font-size: .8rem; margin-left: .5rem; white-space: nowrap; }
  .figures { display: grid; gap: 1.5rem 2rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 600px), 1fr)); }
  figure { margin: .5rem 0 0; } figure img { width: 100%; height: auto; }
  figcaption { font-size: .85rem; color: #3d454d; margin-top: .3rem; }
  .findings li { font-size: 1.05rem; margin: .35rem 0; max-width: 56rem; }
  tbody .group { font-weight: 600; padding-top: .9rem; border-bottom-color: #b9c0c7; }
  summary { cursor: pointer; margin: .6rem 0; color: #0072b2; }
  .message { border-left: 4px solid #e69f00; background: #fdf6e6; padding: .5rem .9rem; margin: .5rem 0; font-size: .9rem;
             max-width: 60rem; }
  .message.failed { border-color: #d55e00; background: #fbeee6; }
  pre { font-size: .8rem; background: #f5f6f8; padding: .8rem; overflow-x: auto; }
  code { font-size: .9em; background: #f5f6f8; padding: 0 .2em; }
  @media print { nav, .configuration { display: none; } h2 { break-after: avoid; } figure { break-inside: avoid; } }
</style>
</head>
<body>
<h1>{{ title }}</h1>
<p class="muted small">Made {{ created }} with pyro_hvae {{ version }} from
  {{ headings|length }} file{{ "" if headings|length == 1 else "s" }}. Numbers are also in <code>results.json</code>,
  figures in <code>figures/</code>.</p>
<nav class="small"><a href="#findings">What was found</a> <a href="#glance">Numbers at a glance</a>
  {%- for section in sections %} <a href="#{{ section.name }}">{{ section.title }}</a>{% endfor %}
  <a href="#provenance">Provenance</a></nav>

{% macro table(headings, groups) %}
<div class="scroll"><table>
<thead><tr><th></th>{% for heading in headings %}<th>{{ heading }}</th>{% endfor %}<th>unit</th></tr></thead>
{% for title, rows in groups %}<tbody>
{%- if title %}<tr><th class="group" colspan="{{ headings|length + 2 }}">{{ title }}</th></tr>{% endif %}{% for row in rows %}
<tr><th scope="row">{{ row.title }}</th>
  {%- for cell in row.cells %}<td>{% if cell %}{{ cell.text }}<span class="n">n = {{ cell.n }}</span>{% else %}–{% endif %}</td>
  {%- endfor %}<td class="muted">{{ "" if row.unit == "1" else row.unit }}</td></tr>{% endfor %}
</tbody>{% endfor %}</table></div>
{% endmacro %}

{% macro pictures(title, figures) %}
<div class="figures">{% for figure in figures %}
<div>{% if headings|length > 1 %}<h3>{{ figure.heading }}</h3>{% endif %}
<figure><img alt="{{ title }}, {{ figure.heading }}" src="data:image/png;base64,{{ figure.png }}">
<figcaption>{{ figure.caption }}</figcaption></figure></div>{% endfor %}
</div>
{% endmacro %}

<h2 id="findings">What was found</h2>
{% for heading, sentences in found %}{% if headings|length > 1 %}<h3>{{ heading }}</h3>{% endif %}
<ol class="findings">{% for sentence in sentences %}<li>{{ sentence }}</li>{% endfor %}</ol>
{% endfor %}
{% for each in opening %}
<h3 id="opening-{{ each.name }}">{{ each.title }}</h3>
{{ pictures(each.title, each.figures) }}{% endfor %}

<h2 id="glance">Numbers at a glance</h2>
{% for part in glance if part.groups %}<details><summary>The main numbers of every analysis</summary>
{{ table(part.headings, part.groups) }}</details>{% endfor %}
<p class="muted small">Value ± standard error, or value [95% interval]. Images count as independent. Every number of an analysis
  stands in its section below.</p>
{% for message in messages %}<div class="message {{ message.kind }}"><b>{{ message.title }}</b>
{%- if headings|length > 1 %} ({{ message.heading }}){% endif %}: {{ message.text }}</div>{% endfor %}

{% for figure in compared %}
<figure><img alt="{{ figure.title }}" src="data:image/png;base64,{{ figure.png }}">
<figcaption><b>{{ figure.title }}.</b> {{ figure.caption }}</figcaption></figure>
{% endfor %}
{% for section in sections %}
<h2 id="{{ section.name }}">{{ section.title }}</h2>
<p>{{ section.about }}</p>
{% for message in section.messages %}<div class="message {{ message.kind }}">
{%- if headings|length > 1 %}<b>{{ message.heading }}</b>: {% endif %}{{ message.text }}</div>{% endfor %}
{% if section.above %}<p class="small"><a href="#opening-{{ section.name }}">The figure stands above.</a></p>{% endif %}
{{ pictures(section.title, section.figures) }}
{% if section.groups %}<details><summary>All numbers of this analysis</summary>
{{ table(section.headings, section.groups) }}</details>{% endif %}
{% endfor %}

<h2 id="provenance">Provenance</h2>
<div class="scroll"><table>
<thead><tr><th></th>{% for heading in headings %}<th>{{ heading }}</th>{% endfor %}</tr></thead>
<tbody>{% for name, values in provenance %}<tr><th scope="row">{{ name }}</th>
  {%- for value in values %}<td>{{ value }}</td>{% endfor %}</tr>{% endfor %}</tbody></table></div>
{% for heading, configuration in configurations %}{% if configuration %}
<details class="configuration"><summary>Configuration of {{ heading }}</summary>
<pre>{{ configuration }}</pre></details>{% endif %}{% endfor %}
</body>
</html>
"""
