# SPDX-License-Identifier: Apache-2.0
# commit.cmake - run at every build: writes commit.h, and touches it only where something changed.
#
# Usage    cmake -DSOURCE=<tree> -DOUT=<file> -P cmake/commit.cmake

cmake_minimum_required(VERSION 3.25)
set(commit "unknown")
find_program(git git)
if(git AND EXISTS "${SOURCE}/.git")
    execute_process(COMMAND "${git}" -C "${SOURCE}" describe --always --dirty --tags
        OUTPUT_VARIABLE said OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE status)
    if(status EQUAL 0 AND said MATCHES "^[-+._/A-Za-z0-9]+$")
        set(commit "${said}")
    endif()
endif()
file(CONFIGURE OUTPUT "${OUT}" CONTENT "#define FT_COMMIT \"@commit@\"\n" @ONLY)
