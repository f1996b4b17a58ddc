"""`auto` takes a GPU kernel only after it has agreed with the op's definition on this machine.

A compiler, a driver or a device can make a kernel wrong that is right elsewhere, and a wrong kernel trains and predicts
on without a word. So the first tensor on a GPU has the kernels run on small inputs and compared with the definition in
float64 (`agreement`), in a process of its own, since an illegal access ends every later call of the process that made
it (`process`). The verdicts are kept for each device type, driver and build (`verdicts`): seconds, once.

`distrusted` is what the choice of a kernel asks. A kernel named by `use_backend` is not asked about.
SEGNEXT_SELF_CHECK=0 trusts every kernel unchecked.
"""

from segnext_kernels.self_check.policy import check_device, distrusted, is_wanted, remembered

__all__ = ["check_device", "distrusted", "is_wanted", "remembered"]
