# SPDX-License-Identifier: Apache-2.0
# sources.cmake - which files make up which folder, and the flags of single files.

set(FT_LIBRARY_FOLDERS base kern model kv attn score engine)
set(FT_SOURCES_base base.c os.c)
set(FT_SOURCES_kern kern.c ref.c pack.c matmul.c)
set(FT_SOURCES_model ggufwalk.c ggufkeys.c ggufvocab.c ggufset.c ggufcheck.c load.c product.c graph.c norms.c rope.c cut.c vocab.c grammar.c sampler.c peer.c)
set(FT_SOURCES_kv store.c format.c bits.c)
set(FT_SOURCES_attn dense.c tree.c vslash.c evidence.c op.c rotate.c stock.c)
set(FT_SOURCES_score score.c keep.c budget.c choose.c fold.c critical.c speckv.c laq.c specpc.c specprefill.c dense.c
    snapkv.c h2o.c keyformer.c tova.c corm.c streamingllm.c knorm.c random.c random_tokens.c tail.c)
set(FT_SOURCES_engine session.c prefill.c compress.c share.c trial.c decode.c pair.c estimate.c cost.c rates.c auto.c arrays.c
    methods.c formats.c report.c stream.c)

set(FT_PROGRAM_FOLDERS conf eval cli)
set(FT_SOURCES_conf conf.c text.c shard.c)
set(FT_SOURCES_eval ppl.c drift.c calibrate.c kv_table.c agreement.c importance.c importance_rows.c bench.c breakeven.c depth.c host.c save.c plot.c
    explain.c blocks.c shape.c chat.c run.c eta.c record.c join.c about.c ruler.c ruler_text.c ruler_hay.c ruler_words.c
    ruler_needle.c ruler_vars.c ruler_qa.c pytext.c metrics.c longbench.c longbench_suite.c matrix.c results.c compare.c report.c
    report_needle.c report_importance.c)
set(FT_SOURCES_cli ui.c json.c setup.c cmd_generate.c cmd_info.c cmd_methods.c cmd_tokens.c cmd_explain.c
    cmd_perplexity.c cmd_calibrate.c auto_kv.c cmd_bench.c cmd_breakeven.c depth.c cmd_eval.c eval_grid.c eval_sweep.c eval_manifest.c
    eval_table.c eval_texts.c suite_ruler.c suite_needle.c suite_longbench.c suite_ppl.c suite_importance.c cmd_report.c
    cmd_score.c cmd_help.c)
set(FT_MAIN_SOURCE main.c)

# Programs of the source tree that are not installed.
set(FT_TOOLS mkmodel kernbench gemmbench)
set(FT_SOURCES_mkmodel mkmodel.c tiny.c ggufout.c planted.c seeds.c)
set(FT_SOURCES_kernbench kernbench.c)
set(FT_SOURCES_gemmbench gemmbench.c)

# Kernels: math functions need not set errno, and a multiply may be fused with an add (the tests'
# tolerances allow for it).  Instruction sets are per file; kern.c and matmul.c choose at run time.
set(kern_flags -fno-math-errno -ffp-contract=fast)
set(avx512_flags -mavx512f -mavx512bw -mavx512vl -mavx512dq -mf16c -mfma)
set(FT_KERN_X86 avx2.c avx512.c avx512bf16.c few512.c few512vnni.c gemm_int8.c gemm_int16.c gemm_bf16.c rows512.c rows512k.c
    unpack512.c gemm_avx2.c pack256.c unpack256.c words256.c
    words512.c)
set(FT_KERN_ARM neon.c packneon.c)
set(avx2_flags -mavx2 -mfma -mf16c)
set(flags_avx2.c ${avx2_flags})
set(flags_gemm_avx2.c ${avx2_flags})
set(flags_pack256.c ${avx2_flags})
set(flags_unpack256.c ${avx2_flags})
set(flags_words256.c ${avx2_flags})
set(flags_avx512.c ${avx512_flags})
set(flags_avx512bf16.c ${avx512_flags} -mavx512bf16 -mavx512vnni)
set(flags_words512.c ${avx512_flags} -mavx512vnni)
set(flags_few512.c ${avx512_flags})
set(flags_few512vnni.c ${avx512_flags} -mavx512vnni)
set(flags_gemm_int8.c ${avx512_flags} -mavx512vnni)
set(flags_gemm_int16.c ${avx512_flags} -mavx512vnni)
set(flags_gemm_bf16.c ${avx512_flags} -mavx512bf16)
set(flags_rows512.c ${avx512_flags} -mavx512vnni)
set(flags_rows512k.c ${avx512_flags} -mavx512vnni)
set(flags_unpack512.c ${avx512_flags})
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64)$")
    list(APPEND FT_SOURCES_kern ${FT_KERN_X86})
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "^(aarch64|arm64)$")
    list(APPEND FT_SOURCES_kern ${FT_KERN_ARM})
endif()
foreach(file IN LISTS FT_SOURCES_kern)
    set_source_files_properties(src/kern/${file} PROPERTIES
        COMPILE_OPTIONS "${kern_flags};${flags_${file}}")
endforeach()

foreach(folder IN LISTS FT_LIBRARY_FOLDERS FT_PROGRAM_FOLDERS)
    set(listed ${FT_SOURCES_${folder}})
    if(folder STREQUAL "cli")
        list(APPEND listed ${FT_MAIN_SOURCE})
    elseif(folder STREQUAL "conf")
        list(APPEND listed toml_none.c) # in place of toml.cpp
    elseif(folder STREQUAL "kern")
        list(APPEND listed ${FT_KERN_X86} ${FT_KERN_ARM})
    endif()
    ft_unlisted(src/${folder} *.c ${listed})
endforeach()
set(listed)
foreach(tool IN LISTS FT_TOOLS)
    list(APPEND listed ${FT_SOURCES_${tool}})
endforeach()
ft_unlisted(tools *.c ${listed})
