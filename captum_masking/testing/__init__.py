"""The contracts of maskers and attributions, as checks to run on your own.

In the manner of scikit-learn's ``check_estimator``: ``check_masker(my_masker)`` and
``check_attribution(MyAttribution(model), model, inputs)`` run every check and report all that
fail; ``masker_checks()`` and ``attribution_checks()`` list them for ``pytest.mark.parametrize``.
"""

from captum_masking.testing.attribution import attribution_checks, check_attribution
from captum_masking.testing.masker import check_masker, masker_checks

__all__ = ["attribution_checks", "check_attribution", "check_masker", "masker_checks"]
