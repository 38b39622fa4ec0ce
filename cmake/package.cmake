# SPDX-License-Identifier: Apache-2.0
# package.cmake - what `cmake --install` installs, and how others find it.
include(CMakePackageConfigHelpers)

set(cmakedir "${CMAKE_INSTALL_LIBDIR}/cmake/foretoken")
install(FILES include/foretoken.h DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}")
install(TARGETS foretoken foretoken-static EXPORT foretokenTargets
    LIBRARY DESTINATION "${CMAKE_INSTALL_LIBDIR}" ARCHIVE DESTINATION "${CMAKE_INSTALL_LIBDIR}")
install(EXPORT foretokenTargets NAMESPACE foretoken:: DESTINATION "${cmakedir}")
if(TARGET program)
    install(TARGETS program RUNTIME DESTINATION "${CMAKE_INSTALL_BINDIR}")
endif()

configure_package_config_file(cmake/foretokenConfig.cmake.in
    "${PROJECT_BINARY_DIR}/foretokenConfig.cmake" INSTALL_DESTINATION "${cmakedir}")
write_basic_package_version_file("${PROJECT_BINARY_DIR}/foretokenConfigVersion.cmake"
    COMPATIBILITY SameMinorVersion)
install(FILES "${PROJECT_BINARY_DIR}/foretokenConfig.cmake"
    "${PROJECT_BINARY_DIR}/foretokenConfigVersion.cmake" DESTINATION "${cmakedir}")

# The .pc file finds its prefix from where it lies, so that the tree may be installed anywhere.
set(pcdir "${CMAKE_INSTALL_LIBDIR}/pkgconfig")
file(RELATIVE_PATH FT_PC_UP "/prefix/${pcdir}" "/prefix")
string(REGEX REPLACE "/$" "" FT_PC_UP "${FT_PC_UP}")
configure_file(cmake/foretoken.pc.in "${PROJECT_BINARY_DIR}/foretoken.pc" @ONLY)
install(FILES "${PROJECT_BINARY_DIR}/foretoken.pc" DESTINATION "${pcdir}")

install(FILES LICENSE DESTINATION "${CMAKE_INSTALL_DOCDIR}")
if(EXISTS "${PROJECT_SOURCE_DIR}/man/foretoken.1")
    install(FILES man/foretoken.1 DESTINATION "${CMAKE_INSTALL_MANDIR}/man1")
endif()
if(EXISTS "${PROJECT_SOURCE_DIR}/completions/foretoken.bash")
    install(FILES completions/foretoken.bash RENAME foretoken
        DESTINATION "${CMAKE_INSTALL_DATADIR}/bash-completion/completions")
endif()
