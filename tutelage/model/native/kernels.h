// The kernels for one instruction set: LEVEL names the namespace, LANES is the number of floats in a vector, DOTS_BF16 says whether
// there are products of bf16. Included once per instruction set.

namespace LEVEL {
#include "simd.h"
#include "pointwise.h"
#include "matmul.h"
#include "attention.h"
#include "sampling.h"
#include "step.h"
#include "table.h"
}  // namespace LEVEL

#undef LEVEL
#undef LANES
#undef DOTS_BF16
