// The Python module _C: pointers, sizes, strides and a stream go in, a status comes out. No torch header: the
// library neither needs torch to build nor breaks when torch is upgraded. The ops' functions are in their
// <op>_bind.cpp.

#include "bind.h"

SEGNEXT_MODULE(_C, m) {
  m.constant("VERSION", SEGNEXT_VERSION);
  m.def("best_instruction_set", [] { return static_cast<int>(segnext::best_isa()); });
#if defined(SEGNEXT_X86)
  m.def("reason_against_tiles", [] { return segnext::reason_against_tiles(); });
#endif
  segnext::bind_ops(m);
}
