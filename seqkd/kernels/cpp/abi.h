// The version of the functions that Python calls. Raise it, here and in build.py, with every change of the arguments or the
// meaning of an exported function.
#pragma once

extern "C" int seqkd_abi() { return 1; }
