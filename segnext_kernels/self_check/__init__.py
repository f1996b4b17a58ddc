"""`auto` uses a GPU kernel only after it has agreed with the op's definition on this machine.

A compiler, a driver or a device can break a kernel that is right elsewhere, and training and prediction go on with a
wrong kernel without a warning. So the first call on a GPU starts a check: kernels run on small inputs and are
compared with the definition in float64 (`agreement`). This happens in a separate process, because an illegal access
makes every later call of its process fail (`process`). The verdicts are kept per device type, driver and build
(`verdicts`), so the seconds of a check are spent once.

The choice of a kernel calls `distrusted`. A kernel named by `use_backend` is not checked. SEGNEXT_SELF_CHECK=0 trusts
every kernel unchecked.
"""

from segnext_kernels.self_check.policy import check_device, distrusted, is_wanted, remembered
from segnext_kernels.self_check.verdicts import Subject, Verdict

__all__ = ["Subject", "Verdict", "check_device", "distrusted", "is_wanted", "remembered"]
