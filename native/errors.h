// The exceptions that cross into Python.
#pragma once

#include <stdexcept>
#include <string>

namespace tenfold {

// Becomes tenfold.core.errors.InputError: data or options that cannot be used.
struct InputError : std::runtime_error {
    using std::runtime_error::runtime_error;
};

}  // namespace tenfold
