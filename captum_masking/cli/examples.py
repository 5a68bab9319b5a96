"""What ``--help`` of each command ends with; the tests parse every line."""

from __future__ import annotations

#: By command.
EXAMPLES = {
    "demo": """\
  captum-masking demo --out demo-output
  captum-masking demo --images 1000 --epochs 3 --methods 'MaskingSaliency,*Cam' --out quick
""",
    "explain": """\
  captum-masking explain cat.jpg --out maps
  captum-masking explain *.jpg --target 'Egyptian cat' --out maps
  captum-masking explain *.jpg --model my-model --out maps
  captum-masking explain cat.jpg --out maps --json > cat.json
""",
    "train": """\
  captum-masking train --data pictures --classifier torchvision:resnet18 --from-scratch \\
      --out my-model
  captum-masking train --data train.csv --val val.csv --classifier my_package.models:birds \\
      --frozen --epochs 10 --checkpoints kept --resume --out my-model
  torchrun --nproc-per-node 2 -m captum_masking train --data train.csv \\
      --classifier efficientnet-lite0 --out my-model
""",
    "evaluate": """\
  captum-masking evaluate --model my-model --data val.csv
  captum-masking evaluate --model my-model --data val.csv --json val.json
  captum-masking evaluate --model my-model --data val.csv --json | jq .localization_error
""",
    "benchmark": """\
  captum-masking benchmark --model my-model --data val.csv --out result
  captum-masking benchmark --model my-model --data val.csv --out quick \\
      --methods 'Masking*,*Cam,Saliency' --limit 100 --curve-images 32
  captum-masking benchmark --model frozen --model joint --data val.csv \\
      --methods 'Masking*' --out two
""",
    "study": """\
  captum-masking study --data train.csv --val val.csv --classifier efficientnet-lite0 \\
      --rows 'frozen,joint,in-*,out-*,infill-blur' --seeds 3 --out study
  captum-masking study --data train.csv --val val.csv --classifier torchvision:resnet18 \\
      --rows 'few-shot-*' --json --out study > study.json
""",
}
