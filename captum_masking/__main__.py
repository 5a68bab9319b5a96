"""``python -m captum_masking`` is the command ``captum-masking``."""

import sys

from captum_masking.cli.main import main

sys.exit(main())
