#!/usr/bin/env bash
# TD-IWAE20 with k = 1, 4, 10, 50, TDVAE20 and the importance-weighted LinearVAE20, trained alike and compared by evidence.
# Usage: benchmarks/importance_weighted.sh [STEPS] [BATCH] [DIR] [IMAGES]     (defaults: 20000 128 runs/iw embedded)
# The published training is 8 million steps of batch 400; a short one shows that everything runs, not what [V24] found.
set -euo pipefail
steps=${1:-20000} batch=${2:-128} out=${3:-runs/iw} images=${4:-embedded}
rate="0:5e-5,$((steps / 20)):5e-4,$((6 * steps / 10)):5e-4,$steps:5e-5"
common=(--steps "$steps" --batch "$batch" --learning-rate "$rate" --clip 300 --start linear_regime --images "$images" --seed 0)
beta=(--beta "z2=0:0.1,$((steps / 2)):1")
for preset in TD-IWAE20-k1 TD-IWAE20-k4 TD-IWAE20-k10 TD-IWAE20; do
  pyro-hvae train "$preset" "${common[@]}" "${beta[@]}" --gradient dreg --out "$out/$preset"
done
pyro-hvae train TDVAE20 "${common[@]}" "${beta[@]}" --out "$out/TDVAE20"
pyro-hvae train LinearIWAE20 "${common[@]}" --gradient dreg --out "$out/LinearIWAE20"
pyro-hvae evidence "$out"/{TDVAE20,TD-IWAE20-k1,TD-IWAE20-k4,TD-IWAE20-k10,TD-IWAE20,LinearIWAE20} --particles 5000 --limit 60
