# Compile options and the helpers that every folder's CMakeLists.txt uses.

add_library(calib_options INTERFACE)
target_include_directories(calib_options INTERFACE ${PROJECT_SOURCE_DIR})
target_compile_options(calib_options INTERFACE -Wall -Wextra -Wno-missing-field-initializers)
if(CALIB_WERROR)
  target_compile_options(calib_options INTERFACE -Werror)
endif()
if(CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
  target_compile_options(calib_options INTERFACE -Wthread-safety)
endif()
if(CALIB_SANITIZE)
  add_compile_options(-fsanitize=${CALIB_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    # GCC 12's -ftree-sink moves stores wrongly in instrumented code: x = f(); if (c) x = bit_cast(bit_cast(x) & m) lost the
    # mask under address and thread.
    add_compile_options(-fno-tree-sink)
  endif()
  add_link_options(-fsanitize=${CALIB_SANITIZE})
endif()

# calib_library(NAME SOURCES... DEPS...): a static library with the alias calibd::NAME without its prefix calib_.
function(calib_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS" ${ARGN})
  add_library(${name} STATIC ${ARG_SOURCES})
  target_link_libraries(${name} PUBLIC ${ARG_DEPS} PRIVATE calib_options)
  target_include_directories(${name} PUBLIC $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}>)
  string(REGEX REPLACE "^calib_" "" short ${name})
  add_library(calibd::${short} ALIAS ${name})
endfunction()

option(CALIB_PRECOMPILE "Parse the heavy headers of other projects once a target, not once a file" ON)

# calib_precompile(TARGET HEADERS...): every file still includes what it uses; this only makes that cheap.
function(calib_precompile target)
  if(CALIB_PRECOMPILE)
    target_precompile_headers(${target} PRIVATE ${ARGN})
    if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
      target_compile_options(${target} PRIVATE -fpch-preprocess)  # so that ccache can tell what a file depends on
    endif()
  endif()
endfunction()
