"""The entry point of group `vllm.general_plugins`.

Nothing is imported at module level: vLLM logs and swallows import errors of plugins, and a guard must not vanish
silently. All work happens inside `register`. A vLLM that cannot be patched is remembered rather than raised here, and
held against the first engine that names a bundle: without one, the plugin must not stop anybody's server.
"""


def register() -> None:
    """Install every seam, once per process; UNLEARN_GUARD_DISABLE=1 makes this a complete no-op."""
    from unlearn_guard.serving.vllm.settings import is_disabled

    if is_disabled():
        return
    from unlearn_guard.serving.vllm.engine import install_configuration

    install_configuration()
    try:
        from unlearn_guard.serving.vllm.admission import install_admission
        from unlearn_guard.serving.vllm.answers import install_answers
        from unlearn_guard.serving.vllm.engine import install_engine
        from unlearn_guard.serving.vllm.subtraction import install_subtraction
        from unlearn_guard.serving.vllm.worker import install_worker

        install_engine()
        install_admission()
        install_answers()
        install_worker()
        install_subtraction()
    except Exception as error:
        from unlearn_guard.serving.vllm.seams import note_broken

        note_broken(error)
