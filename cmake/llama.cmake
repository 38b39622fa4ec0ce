# SPDX-License-Identifier: Apache-2.0
# llama.cmake - finds the pinned llama.cpp release, or has scripts/get-llama build it.
#
# Gives    ft_llama_headers   include path of llama.h, ggml*.h, gguf.h (as system headers)
#          ft_llama           the same and the libraries
#          FT_LLAMA_LIBDIR, FT_LLAMA_LIBRARIES
#
# All four libraries are linked by name and kept even where the linker sees no use of them: a
# release built by others may carry no run path, and the run path of our library does not extend to
# what its libraries need in turn.  Named in our own library, each is found by its run path.

set(FT_LLAMA_VERSION 0.5.0)
set(FT_GGML_VERSION 0.25.1)
set(FT_LLAMA_VARIANT "" CACHE STRING "Empty, or tsan: a build of llama.cpp for -fsanitize=thread")

set(prefix "")
if(NOT FT_LLAMA_VARIANT)
    find_package(llama ${FT_LLAMA_VERSION} EXACT CONFIG QUIET)
    if(llama_FOUND AND NOT ggml_VERSION VERSION_EQUAL FT_GGML_VERSION)
        message(STATUS "llama in ${llama_DIR}: ggml is ${ggml_VERSION}, not ${FT_GGML_VERSION}; passed over")
    elseif(llama_FOUND AND GGML_BACKEND_DL)
        message(STATUS "llama in ${llama_DIR}: ggml-cpu cannot be linked (GGML_BACKEND_DL); passed over")
    elseif(llama_FOUND)
        cmake_path(GET LLAMA_INCLUDE_DIR PARENT_PATH prefix)
        set(FT_LLAMA_LIBDIR "${LLAMA_LIB_DIR}")
        message(STATUS "llama.cpp ${FT_LLAMA_VERSION}: ${prefix} (find_package)")
    endif()
endif()
if(NOT prefix)
    set(arguments)
    if(FT_LLAMA_VARIANT)
        set(arguments --variant=${FT_LLAMA_VARIANT})
    endif()
    execute_process(COMMAND "${PROJECT_SOURCE_DIR}/scripts/get-llama" ${arguments}
        OUTPUT_VARIABLE output OUTPUT_STRIP_TRAILING_WHITESPACE RESULT_VARIABLE status)
    if(NOT status EQUAL 0)
        message(FATAL_ERROR "scripts/get-llama failed, see above")
    endif()
    string(REGEX REPLACE "^.*\n" "" prefix "${output}")
    set(FT_LLAMA_LIBDIR "${prefix}/lib")
    message(STATUS "llama.cpp ${FT_LLAMA_VERSION}: ${prefix}")
endif()

set(FT_LLAMA_LIBRARIES)
foreach(name IN ITEMS llama ggml ggml-cpu ggml-base)
    set(file "${FT_LLAMA_LIBDIR}/lib${name}.so")
    if(NOT EXISTS "${file}")
        message(FATAL_ERROR "${file} does not exist: llama.cpp must be installed with shared libraries")
    endif()
    list(APPEND FT_LLAMA_LIBRARIES "${file}")
endforeach()

add_library(ft_llama_headers INTERFACE)
set(FT_LLAMA_INCLUDEDIR "${prefix}/include")
target_include_directories(ft_llama_headers SYSTEM INTERFACE "${FT_LLAMA_INCLUDEDIR}")
add_library(ft_llama INTERFACE)
target_link_libraries(ft_llama INTERFACE ft_llama_headers ${FT_LLAMA_LIBRARIES})
target_link_options(ft_llama INTERFACE "LINKER:--no-as-needed")
