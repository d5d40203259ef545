// The kernels, once for every instruction set. The includer defines
//   RP_NAMESPACE      name of the instruction set's namespace
//   RP_LANES          32-bit integers in a vector
//   RP_VECTORS        vectors of output channels in a panel
//   RP_ROWS           output pixels in a tile
//   RP_DOT16(a, x, w) a + the sums of products of pairs of 16-bit integers, modulo 2**32
//   RP_DOT8(a, x, w)  the same of quadruples, x unsigned and w signed (optional)
//   RP_PAIRS8(x, w), RP_ADD16(a, b), RP_WIDEN16(a)
//                     sums of pairs of those products in 16 bits, their sums, and sums of pairs of these in 32 (optional)
//   RP_LOAD16(p), RP_LOAD8(p), RP_STORE16(p, x), RP_STORE8(p, x)
//                     a vector of 32-bit integers from and to narrower ones in memory (optional)
//   RP_PACK(a, b)     two vectors of 32-bit integers as one of 16-bit integers, limited, in an order of its own (optional)
//   RP_PAIRS_FIRST(x, y), RP_PAIRS_SECOND(x, y)
//                     of two such: pairs of neighbours, x below, in the order of the first and of the second vector
//   RP_ADD_LIMITED(x, y)
//                     sums of 16-bit integers, limited to 16 bits
//   RP_LOAD_PACKED16(p), RP_LOAD_PACKED8(p), RP_STORE_PACKED16(p, x), RP_STORE_PACKED8(p, x)
//                     such a vector from and to memory, where the second vector's integers lie behind the first's
//   RP_PAIR8(p, q), RP_PAIR16(p, q)
//                     pairs of 16-bit integers from two places in memory, the first below (optional)
//   RP_TILES          if the instruction set brings a convolution of its own
//   RP_OPAQUE(v)      a barrier that keeps v in a register (for peak)
// Vectors are the compilers' own (GCC, Clang), so that all but the dot products is plain arithmetic.

#include <algorithm>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>

#include "kernels.hpp"

namespace radixpoint {
namespace RP_NAMESPACE {
namespace {

#include "generic/vectors.hpp"
#include "generic/stages.hpp"
#include "generic/convolution.hpp"
#include "generic/winograd.hpp"
#include "generic/windows.hpp"
#ifndef RP_TILES
#include "generic/peak.hpp"
#endif

}  // namespace
}  // namespace RP_NAMESPACE
}  // namespace radixpoint
