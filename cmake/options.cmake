# SPDX-License-Identifier: Apache-2.0
# options.cmake - flags for every file of ours (target ft_options), and where results go.

set(CMAKE_C_STANDARD 11)
set(CMAKE_C_STANDARD_REQUIRED ON)
set(CMAKE_C_EXTENSIONS OFF)
set(CMAKE_C_VISIBILITY_PRESET hidden)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY "${PROJECT_BINARY_DIR}/bin")
set(CMAKE_LIBRARY_OUTPUT_DIRECTORY "${PROJECT_BINARY_DIR}/lib")
set(CMAKE_ARCHIVE_OUTPUT_DIRECTORY "${PROJECT_BINARY_DIR}/lib")

if(NOT CMAKE_BUILD_TYPE)
    set(CMAKE_BUILD_TYPE Release CACHE STRING "Release, RelWithDebInfo (dev) or Debug" FORCE)
endif()
# Checks stay on in every build: no NDEBUG anywhere.
set(CMAKE_C_FLAGS_RELEASE "-O3")
set(CMAKE_C_FLAGS_RELWITHDEBINFO "-O2 -g")
set(CMAKE_C_FLAGS_DEBUG "-O1 -g -fno-omit-frame-pointer")

add_library(ft_options INTERFACE)
target_compile_options(ft_options INTERFACE
    -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wmissing-prototypes -Wstrict-prototypes -Wvla)
if(FT_WERROR)
    target_compile_options(ft_options INTERFACE -Werror)
endif()
if(FT_SANITIZE)
    target_compile_options(ft_options INTERFACE -fsanitize=${FT_SANITIZE} -fno-sanitize-recover=all)
    target_link_options(ft_options INTERFACE -fsanitize=${FT_SANITIZE})
endif()
if(FT_COVERAGE)
    target_compile_options(ft_options INTERFACE --coverage)
    target_link_options(ft_options INTERFACE --coverage)
endif()
if(FT_FUZZ)
    if(NOT CMAKE_C_COMPILER_ID MATCHES "Clang")
        message(FATAL_ERROR "the fuzz targets need clang, the compiler is ${CMAKE_C_COMPILER_ID}; "
            "type: apt-get install -y clang libclang-rt-dev, then configure into an empty folder")
    endif()
    target_compile_options(ft_options INTERFACE -fsanitize=fuzzer-no-link)
endif()

# ft_listed(<out> <folder> <file>...) - the listed files that exist, with their folder in front.
# A listed file that is missing, and a .c of the folder that nobody lists, is an error, or a warning
# while FT_ALLOW_MISSING is on.  A change of the folder configures anew.
function(ft_listed out folder)
    set(present)
    set(level FATAL_ERROR)
    if(FT_ALLOW_MISSING)
        set(level WARNING)
    endif()
    foreach(file IN LISTS ARGN)
        if(EXISTS "${PROJECT_SOURCE_DIR}/${folder}/${file}")
            list(APPEND present "${PROJECT_SOURCE_DIR}/${folder}/${file}")
        else()
            message(${level} "${folder}/${file} is listed and does not exist")
        endif()
    endforeach()
    if(IS_DIRECTORY "${PROJECT_SOURCE_DIR}/${folder}")
        set_property(DIRECTORY "${PROJECT_SOURCE_DIR}" APPEND PROPERTY
            CMAKE_CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/${folder}")
    endif()
    set(${out} "${present}" PARENT_SCOPE)
endfunction()

# ft_unlisted(<folder> <pattern> <file>...) - complain about files of the folder that nobody lists.
function(ft_unlisted folder pattern)
    set(level FATAL_ERROR)
    if(FT_ALLOW_MISSING)
        set(level WARNING)
    endif()
    file(GLOB found RELATIVE "${PROJECT_SOURCE_DIR}/${folder}" "${PROJECT_SOURCE_DIR}/${folder}/${pattern}")
    foreach(file IN LISTS found)
        if(NOT file IN_LIST ARGN)
            message(${level} "${folder}/${file} exists and is not listed in a CMake file")
        endif()
    endforeach()
endfunction()
