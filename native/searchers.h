// The classes of the native core, for Python.
#pragma once

#include <nanobind/nanobind.h>

namespace tenfold {

struct Interrupted {};  // Python's error is set

void bind_searchers(nanobind::module_& module);

}  // namespace tenfold
