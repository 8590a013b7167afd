"""Say whether the demo learned: if not, something is broken that no test of a few steps can see."""

import json
import sys

LEAST = 0.95

with open(sys.argv[1], encoding="utf-8") as file:
    top1 = json.load(file)["val"]["acc_top1"]
if top1 < LEAST:
    sys.exit(f"the demo ended at a top-1 of {top1:.2%}, expected {LEAST:.0%} or more")
print(f"the demo's top-1: {top1:.2%}")
