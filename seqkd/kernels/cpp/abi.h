// The version of the functions that Python calls. Raise it here and in build.py whenever the arguments or the meaning of an
// exported function change.
#pragma once

extern "C" int seqkd_abi() { return 1; }
