"""Which tests `make test` leaves to `make test-more`: whatever takes long because many real processes start and end.

What it keeps has one of each real thing: a Triton that answers over both protocols (serving/client/test_client.py),
the whole line from training to a benchmark (test_end_to_end.py), files exported and verified (export/), an engine of
TensorRT-RTX and a page in a browser (`KEPT`).
"""

from __future__ import annotations

INTEGRATION = (
    # Servers that are broken, upgraded, rolled back, watched and shared.
    "deploy/",
    "files/test_home.py::test_commands_work_under_an_id",
    "packaging/test_compose.py",
    "packaging/test_sbom.py",
    "repository/test_depth_family_export.py",
    "repository/test_config_rules.py::test_serve_runs_nothing",
    "repository/test_config_rules.py::test_deploy_and_render",
    "repository/test_image_endpoint.py",
    "repository/test_model_folders.py",
    "repository/test_tensorrt_accelerator.py",
    "serving/client/test_hostile_server.py",
    "serving/client/test_int8_served.py",
    "serving/client/test_loopback.py",
    "serving/client/test_client.py::test_a_new_version",
    "serving/client/test_client.py::test_a_version_with_wrong",
    "serving/client/test_client.py::test_a_damaged_file",
    "serving/client/test_tls.py",
    "serving/client/test_triton_by_hand.py",
    "serving/clusters/test_workload.py",
    "serving/deployment/",
    "serving/embedded/test_backend.py",
    "serving/embedded/installation/test_native_backend.py",
    "serving/embedded/test_openvino_backend.py::test_the_native_server",
    "serving/embedded/test_openvino_backend.py::test_without_the_extra",
    "serving/embedded/test_patches.py",
    "serving/embedded/test_plain_paths.py",
    "serving/embedded/installation/test_python_stub.py",
    "serving/embedded/test_queue.py",
    "serving/embedded/test_reach.py",
    "serving/embedded/test_request_limits.py",
    "serving/embedded/test_security.py",
    "serving/embedded/test_server_folder.py",
    "serving/running/test_full_disk.py",
    "serving/supervisor/",
    # Measurements, which take as long as they measure.
    "bench/exports/test_measurement.py",
    "bench/load/test_generator.py",
    "bench/load/test_inputs.py",
    "bench/results/test_gpu_sampling.py",
    "bench/results/test_quotas.py",
    "bench/results/test_response_cache.py",
    "bench/test_in_process.py",
    "bench/test_loadgen.py",
    "bench/test_measuring.py",
    "bench/tuning/",
    # Bulk scoring on Ray, through a server, ended and gone on with.
    "scoring/test_ray.py",
    "scoring/test_resume.py",
    "scoring/test_served.py",
    "scoring/sources/test_changed_source.py",
    # Every family, precision and fault of an export; training in several processes, ended and gone on with.
    "analysis/lesion/test_study.py",
    "analysis/paths/test_study.py",
    "analysis/shrink/",
    "cli/test_export_again.py",
    "cli/test_export_formats.py::test_an_engine_of_rtx_goes",
    "cli/test_export_formats.py::test_a_script_comes",
    "cli/test_export_precision.py",
    "cli/test_profile.py::test_a_run_is",
    "cli/test_profile.py::test_a_version_is",
    "cli/test_tuning_candidates.py",
    "cli/test_json_schema.py::test_a_run_prints",
    "cli/test_json_schema.py::test_an_export_and",
    "cli/test_render.py",
    "cli/test_terminal.py",
    "cli/test_verify.py",
    "export/test_pipeline.py::test_a_deep_plain_network",
    "export/test_pipeline.py::test_a_bar_of",
    "export/checks/test_planted_faults.py",
    "export/checks/test_row_independence.py",
    "export/graph/test_folded_families.py",
    "export/int8/",
    "export/sources/",
    "export/tensorrt/",
    "export/test_gpu_parity.py",
    "runtimes/test_external_data.py",
    "training/test_processes.py",
    "training/test_train_command.py",
    "training/test_training_on.py",
    # Every command of the documentation and every command that another proposes; every package gone once; odd file
    # systems.
    "docsite/test_pages.py::test_every_block_of_a_page_runs",
    "test_readme.py::test_the_readmes_commands_run",
    "examples/",
    "cli/test_next.py",
    "cli/test_missing_packages.py",
    "files/test_mounts.py",
    # Whole files spoiled at random, hostile files of every kind.
    "test_crafted_files.py",
    "test_fuzz.py",
    "test_untrusted_files.py",
    "data/test_bit_flips.py",
    # Commands that export, serve or score several times over.
    "cli/test_compare.py::test_a_form_that_fails",
    "cli/test_compare.py::test_forms_stand",
    "cli/test_compare.py::test_the_picked_form",
    "cli/test_compare.py::test_where_no_form",
    "cli/test_serve_names.py",
    "cli/test_evaluate.py::test_what_cannot_be_evaluated",
    "cli/test_evaluate.py::test_an_interrupt",
    "cli/test_evaluate.py::test_a_table_says",
    "cli/test_bad_input.py::test_the_other_protocols_port",
    "cli/test_bad_input.py::test_ctrl_c",
    "cli/test_completion.py::test_bash_gets_what_fits",
    "cli/test_completion.py::test_zsh_and_fish",
    "cli/test_json_errors.py::test_an_interrupt",
    "cli/test_steps.py::test_a_real_command",
    "cli/test_json_errors.py::test_a_failed_check_stands",
    "cli/test_json_schema.py::test_a_failed_comparison",
    "cli/test_export_runtime.py::test_an_earlier_export",
    "cli/test_random_weights.py::test_an_export_of_random_weights",
    "data/test_image_decoding.py::test_a_picture_of_34_bytes",
    "cli/test_checkpoints.py::test_the_average_in_a_checkpoint",
    "cli/test_checkpoints.py::test_the_chosen_entry",
    "test_end_to_end.py::test_the_demo",
    "test_gpu_line.py::test_without_a_gpu",
    "test_gpu_line.py::test_it_begins_nothing",
    "test_gpu_line.py::test_a_step_that_fails",
    "test_mutants.py::test_tests_that_are",
    "test_mutants.py::test_a_fault_is_caught",
    # A page in a browser.
    "bench/report/test_html_report.py::test_a_browser",
)
"""Files, folders and beginnings of names, below tests/."""

KEPT = (
    "cli/test_completion.py::test_bash_gets_what_fits[words0",
    "cli/test_completion.py::test_bash_gets_what_fits[words8",
    "examples/test_examples.py::test_an_example_runs[build_and_fold]",
    "bench/report/test_html_report.py::test_a_browser_shows_it_light_and_dark",
    "export/tensorrt/test_builder.py::test_the_engines_card_lies_beside_it_and_the_onnx_file_does_not",
)
"""Of those, what is run first all the same."""


LONGEST = (
    "docsite/test_pages.py::test_every_block_of_a_page_runs",
    "test_readme.py::test_the_readmes_commands_run",
    "test_fuzz.py",
    "test_end_to_end.py",
    "test_gpu_line.py::test_without_a_gpu",
    "examples/",
    "cli/test_next.py",
)
"""Those that begin first: at the end all workers but theirs would wait for them."""


def is_among_the_longest(name: str) -> bool:
    """Return whether a test begins before the others, by its name below tests/."""
    return name.startswith(LONGEST)


def is_integration(name: str) -> bool:
    """Return whether `make test` leaves a test out, by its name below tests/: `folder/test_file.py::test_name`."""
    return name.startswith(INTEGRATION) and not name.startswith(KEPT)
