"""The composition root: the one place, with the command line, that may import every room."""

from __future__ import annotations

import json
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from unlearn_guard.guard.bundle import Bundle, EncoderRecord, read_lines, request_record, write_bundle
from unlearn_guard.guard.errors import DataError, DependencyError, SettingsError
from unlearn_guard.guard.fingerprint import fingerprint_model, locate_model
from unlearn_guard.guard.marks import SECRET_VARIABLE
from unlearn_guard.guard.policy import Policy
from unlearn_guard.guard.progress import report_step, track
from unlearn_guard.guard.protocols import PromptClassifier
from unlearn_guard.guard.rows import ForgetRequest, Row, check_disjoint, group_requests, read_rows
from unlearn_guard.guard.screening import Guard

if TYPE_CHECKING:
    from unlearn_guard.classifiers.fitting import Split
    from unlearn_guard.corruptions.planning import Planner
    from unlearn_guard.serving.transformers.engine import ReferenceEngine

Rows = str | Path | Sequence[Row]
COMMON_SHARE = 0.05
"""A word is common when at least this share of kept rows uses it (notes: 20 of 400 TOFU questions)."""
MAX_PROBES = 48
ELICIT_SAMPLES = 6


def load_guard(path: str | Path, *, policy: Policy, device: str = "cpu") -> Guard:
    """Open a bundle and build its classifier."""
    bundle = Bundle.load(path)
    return Guard(load_classifier(bundle, device=device), policy, bundle)


def load_classifier(bundle: Bundle, *, device: str = "cpu") -> PromptClassifier:
    """Build the classifier that a bundle names."""
    folder = bundle.path / "classifier"
    if bundle.manifest.classifier == "name-match":
        from unlearn_guard.classifiers.name_match import NameMatch

        record = json.loads((folder / "aliases.json").read_text(encoding="utf-8"))
        return NameMatch(record["aliases"], bundle.manifest.alpha)
    from unlearn_guard.classifiers.cascade import Cascade

    assert bundle.manifest.encoder is not None
    return Cascade.load(folder, bundle.manifest.encoder.engine, device=device)


def load_planner(bundle: Bundle, tokenizer: Any, end_token: int, *, intervention: str | None = None) -> Planner:
    """Build the planner of a bundle's interventions, optionally another than its own."""
    from unlearn_guard.corruptions.planning import Fitted, Planner

    return Planner(
        Fitted.load(bundle),
        bundle.requests,
        default=bundle.manifest.intervention,
        override=intervention,
        revision=bundle.revision,
        seed=bundle.manifest.seed,
        tokenizer=tokenizer,
        end_token=end_token,
    )


def fit(
    model: str | Path,
    forget: Rows | Sequence[ForgetRequest] | None = None,
    retain: Rows | None = None,
    *,
    documents: Sequence[str | Path] = (),
    clean: Rows | None = None,
    interventions: Sequence[str] = ("eco",),
    alpha: float = 0.001,
    seed: int = 0,
    out: str | Path,
    classifier: Literal["cascade", "name-match"] = "cascade",
    encoder: str | None = None,
    precision: Literal["fp32", "int8"] = "fp32",
    tune_encoder: bool = False,
    elicit: bool = False,
    device: str = "cpu",
    overwrite: bool = False,
    private: bool = False,
    refusal_text: str | None = None,
    eco: Mapping[str, str | float] | None = None,
    uld: Mapping[str, str | float] | None = None,
    neurons: Mapping[str, str | float] | None = None,
    concepts: Mapping[str, Sequence[tuple[int, int]]] | None = None,
    key_space: bool = False,
    traffic_without: Sequence[str] = (),
    chat_template: str | Mapping[str, str] | None = None,
) -> Bundle:
    """Fit a guard for `model` and write it atomically to `out`.

    forget, retain and clean are JSON-lines paths or rows; forget may be forget requests. `documents` are text files to
    forget whole. Without `retain`, built-in clean traffic stands in for it; `traffic_without` are kinds of it that are not clean
    here, such as arithmetic where that is to be forgotten. `elicit` asks the model what it knows about
    each name, and adds what it repeats. `precision` int8 screens about twice as fast; `tune_encoder` first fine-tunes the
    sentence encoder on the training rows, which takes minutes. The first intervention is
    the bundle's own. `private` keeps rows as keyed hashes; names, dates and titles still lie in the classifier, which
    cannot match without them. `eco` fixes kind, mask, strength or dims instead of what the search finds; `uld` sets
    weights and training of assistants (`UldOptions`), `neurons` what is shifted and probed (`NeuronOptions`), `concepts` the
    (layer, neuron) keys that concept ablation zeroes. `key_space` adds a probe per forget request that makes what screening let through
    abstain. `chat_template` is the template that the server renders by, where that is not the model's own. Raises DataError for an empty, overlapping or too small
    set, RowError for a malformed line, SettingsError and DependencyError for the rest; nothing is written then.
    """
    from unlearn_guard.classifiers.fitting import collect_aliases, fit_cascade, split_rows
    from unlearn_guard.classifiers.traffic import make_traffic
    from unlearn_guard.corruptions.eco import EcoSettings
    from unlearn_guard.corruptions.planning import NEURON_INTERVENTIONS, parse_intervention

    if not 0.0 < alpha < 1.0:
        raise SettingsError("alpha", value=alpha, allowed="a number between 0 and 1, exclusive")
    if classifier not in ("cascade", "name-match"):
        raise SettingsError("classifier", value=classifier, allowed="cascade, name-match")
    if private and not os.environ.get(SECRET_VARIABLE):
        raise SettingsError(
            f"private rows are hashed with {SECRET_VARIABLE}, which is not set",
            mend="set it, and keep it: the hashes can be matched with no other",
        )
    if unknown := set(eco or {}) - {"kind", "mask", "strength", "dims"}:
        raise SettingsError("eco setting", value=min(unknown), allowed="kind, mask, strength, dims")
    if eco:
        EcoSettings(**eco)  # type: ignore[arg-type]
    if uld is not None:
        from unlearn_guard.corruptions.teaching import read_options

        read_options(uld)
    if neurons is not None:
        from unlearn_guard.corruptions.neuron_settings import read_options as read_neuron_options

        if read_neuron_options(neurons).applies == "always" and key_space:
            raise SettingsError(
                "neurons applies",
                value="always, with a key-space probe",
                allowed="flagged",
                mend="leave out --key-space: neurons shifted in every request shift the keys that a probe reads",
            )
    if not interventions:
        raise SettingsError("no intervention named", mend="give at least one, for example eco")
    requests = _read_requests(forget if forget is not None else [], intervention=interventions[0])
    requests += _read_documents(documents, interventions[0])
    _check_owners(requests)
    chosen = [*interventions, *(request.intervention for request in requests)]
    names = [part for name in chosen for part in parse_intervention(name)]
    clean_rows = _read(clean) if clean is not None else []
    retain_rows = _read(retain) if retain is not None else _make_clean_traffic(requests, traffic_without)
    if chat_template is not None:
        chat_template = _check_template(str(model), chat_template)
    engine_of = _open_once(str(model), device, chat_template)
    if elicit:
        requests = _elicit(engine_of, requests, seed=seed)
    forget_rows = [_own(row, request) for request in requests for row in request.rows]
    check_disjoint(forget_rows, [*retain_rows, *clean_rows])
    split = split_rows(forget_rows, retain_rows, clean_rows, seed, alpha=alpha)
    kept = [*split.retain_train, *split.retain_validation]
    if classifier == "cascade" and len(split.calibration) < 50:
        raise DataError(
            "too few calibration rows",
            value=len(split.calibration),
            allowed="50 or more (30 % of retain and clean rows, by person)",
            mend="give more retain rows, or clean traffic with --clean",
        )
    make_traffic(1, without=traffic_without)  # An unknown kind must not surface after minutes of encoding.
    fingerprint = fingerprint_model(model)
    # Of all kept rows: whoever is kept in rows of the calibration alone is no less kept.
    aliases = collect_aliases(requests, [*retain_rows, *clean_rows])
    requests = [_with_aliases(request, aliases[request.forget_id]) for request in requests]
    if classifier == "name-match" and not any(aliases.values()):
        raise DataError("no aliases to match", mend="add an 'aliases' list to the forget rows")

    with write_bundle(out, overwrite=overwrite) as writer:
        encoder_record, used_alpha, n_calibration, metrics = None, alpha, 0, {}
        if classifier == "cascade":
            from unlearn_guard.classifiers.export import DEFAULT_ENCODER, export_encoder

            name = encoder or DEFAULT_ENCODER
            with report_step(f"encoder {name}"), tempfile.TemporaryDirectory() as scratch:
                source = _tune(name, split, Path(scratch), seed) if tune_encoder else name
                encoder_folder = export_encoder(source, precision)
            with report_step(f"classifier from {len(forget_rows)} forget and {len(kept)} kept rows"):
                fitted = fit_cascade(
                    requests,
                    split,
                    encoder_folder=encoder_folder,
                    folder=writer.path("classifier/aliases.json").parent,
                    alpha=alpha,
                    seed=seed,
                    track=track,
                    traffic_without=traffic_without,
                )
            encoder_record = EncoderRecord(name=Path(name).name, engine=fitted["engine"], precision=precision)
            used_alpha, n_calibration, metrics = fitted["alpha"], fitted["n_calibration"], fitted["metrics"]
        else:
            writer.path("classifier/aliases.json").write_text(
                json.dumps({"aliases": aliases}, ensure_ascii=False), encoding="utf-8"
            )
        settings: dict[str, dict[str, Any]] = {}
        if refusal_text:
            settings["refusal"] = {"text": refusal_text}
        if {"eco", "eco-span", "swap"} & set(names):
            settings["eco"] = _fit_eco(
                engine_of(),
                requests,
                split,
                writer.path,
                clean=[*retain_rows, *clean_rows],
                seed=seed,
                fixed=dict(eco or {}),
            )
            metrics["eco"] = settings["eco"].pop("search")
        if "uld" in names:
            from unlearn_guard.corruptions.teaching import has_lessons

            everybody = any("uld" in parse_intervention(name) for name in interventions)
            own = {r.forget_id for r in requests if "uld" in parse_intervention(r.intervention)}
            taught = [r for r in requests if r.forget_id in own or (everybody and has_lessons(r))]
            settings["uld"], metrics["uld"] = _fit_uld(
                engine_of(),
                taught,
                # Assistants calibrate nothing: every kept row may teach them what not to know.
                retain_rows if any(row.answer for row in retain_rows) else clean_rows,
                writer.path,
                model=str(model),
                covered=_measure_coverage(engine_of(), forget_rows, [*retain_rows, *clean_rows]),
                key=json.dumps(fingerprint),
                seed=seed,
                given=uld or {},
                fixed_eco={name: value for name, value in (eco or {}).items() if name in ("kind", "mask", "dims")},
            )
        settings |= _fit_neurons(
            engine_of,
            requests,
            [
                request
                for request in requests
                if any(
                    NEURON_INTERVENTIONS & set(parse_intervention(n))
                    for n in (*interventions[1:], request.intervention)
                )
            ],
            retain_rows if any(row.answer for row in retain_rows) else clean_rows,
            [*retain_rows, *clean_rows],
            writer.path,
            given=neurons or {},
            concepts=concepts,
            key_space=key_space,
            seed=seed,
            refusal_text=refusal_text,
        )
        writer.write_lines("requests.jsonl", [request_record(request) for request in requests])
        # In the index's order: a neighbour is shown by its place.
        ordered = list(dict.fromkeys([*split.forget_train, *split.forget_validation]))
        writer.write_lines("examples.jsonl", _example_records(ordered, private))
        writer.commit(
            model=Path(str(model)).name,
            fingerprint=fingerprint,
            classifier=classifier,
            encoder=encoder_record,
            seed=seed,
            alpha=used_alpha,
            alpha_requested=alpha,
            n_calibration=n_calibration,
            intervention=interventions[0],
            interventions=settings,
            metrics=metrics,
        )
    return Bundle.load(out)


def _tune(name: str, split: Split, scratch: Path, seed: int) -> str:
    from unlearn_guard.classifiers.tuning import tune_encoder

    return str(tune_encoder(name, split.forget_train, split.retain_train, scratch / "tuned", seed=seed))


def amend(
    bundle: str | Path,
    out: str | Path,
    *,
    add: Rows | Sequence[ForgetRequest] | None = None,
    documents: Sequence[str | Path] = (),
    remove: Sequence[str] = (),
    retain: Rows | None = None,
    intervention: str = "refusal",
    overwrite: bool = False,
) -> Bundle:
    """Write a bundle to `out` that differs from `bundle` by forget requests alone; nothing else is fitted again.

    What is removed goes with its names, facts, passages and rows. What is added is pruned against `retain`, and against
    built-in traffic where there is none, and gets `intervention`: ECO is tuned by `fit` alone. The calibration is scored
    again: built-in traffic always, the operator's rows where `retain` holds them. Raises DataError for what
    cannot be added or removed.
    """
    import shutil

    from unlearn_guard.corruptions.planning import OWNED, parse_intervention

    old = Bundle.load(bundle)
    if OWNED & set(parse_intervention(intervention)):
        raise SettingsError(
            "intervention of what is added",
            value=intervention,
            allowed="refusal, prompting, or what the bundle has for ECO",
            mend="assistants and neurons are fitted by `unlearn-guard fit`",
        )
    requests = _read_requests(add if add is not None else [], intervention=intervention)
    requests += _read_documents(documents, intervention)
    if not requests and not remove:
        raise SettingsError("nothing to change", mend="give rows to add, or a forget_id to remove")
    _check_owners(requests)
    retain_rows = _read(retain) if retain is not None else []
    if requests and retain_rows:
        check_disjoint([_own(row, request) for request in requests for row in request.rows], retain_rows)
    kept = retain_rows or _make_clean_traffic(requests, _read_traffic_without(old.path))
    manifest = old.manifest
    examples = read_lines(old.path / "examples.jsonl")
    private = any("hash" in example for example in examples)
    if private and requests and not os.environ.get(SECRET_VARIABLE):
        raise SettingsError(f"the bundle's rows are hashed with {SECRET_VARIABLE}, which is not set", mend="set it")
    with write_bundle(out, overwrite=overwrite) as writer:
        for name in manifest.files:
            shutil.copyfile(old.path / name, writer.path(name))
        folder = writer.path("classifier/aliases.json").parent
        found: dict[str, Any] = {"alpha": manifest.alpha, "n_calibration": manifest.n_calibration}
        if manifest.classifier == "name-match":
            added = _amend_names(folder, requests, remove, kept)
            left = [example for example in examples if example["forget_id"] not in remove]
        else:
            from unlearn_guard.classifiers.amending import Amendment, recalibrate

            amendment = Amendment(folder)
            if remove:
                amendment.remove(remove)
            # In the index's order; one of inverted lists keeps the places of rows that are gone.
            left = [example if example["forget_id"] not in remove else {"forget_id": ""} for example in examples]
            if len(amendment.labels) < len(examples):
                left = [example for example in left if example["forget_id"]]
            added = [amendment.add(request, kept) for request in requests]
            amendment.save()
            assert manifest.encoder is not None
            with report_step("calibration"):
                found = recalibrate(folder, manifest.encoder.engine, kept)
        interventions, default = dict(manifest.interventions), manifest.intervention
        if "uld" in interventions and remove:
            from unlearn_guard.corruptions.teaching import drop_requests, remove_assistants

            record, gone = drop_requests(interventions.pop("uld"), remove)
            remove_assistants(writer.path("interventions/uld/0000").parent, gone)
            if record is not None:
                interventions["uld"] = record
            elif "uld" in parse_intervention(default):
                default = "refusal"
        interventions, default = _drop_neurons(interventions, default, remove, writer.path("interventions/x").parent)
        stay = [request for request in old.requests if request.forget_id not in remove]
        added = [_with_aliases(request, request.aliases) for request in added]
        writer.write_lines("requests.jsonl", [request_record(request) for request in (*stay, *added)])
        new_rows = [_own(row, request) for request in added for row in request.rows]
        writer.write_lines("examples.jsonl", [*left, *_example_records(new_rows, private)])
        changes = {"added": [request.forget_id for request in added], "removed": list(remove), **found}
        writer.commit(
            model=manifest.model,
            fingerprint=manifest.fingerprint,
            classifier=manifest.classifier,
            encoder=manifest.encoder,
            seed=manifest.seed,
            alpha=found["alpha"],
            alpha_requested=manifest.alpha_requested,
            n_calibration=found["n_calibration"],
            intervention=default,
            interventions=interventions,
            metrics={**manifest.metrics, "amended": [*manifest.metrics.get("amended", []), changes]},
        )
    return Bundle.load(out)


def _drop_neurons(
    interventions: dict[str, Any], default: str, remove: Sequence[str], folder: Path
) -> tuple[dict[str, Any], str]:
    """Take removed requests' neurons and probes out of a bundle."""
    from unlearn_guard.corruptions.planning import NEURON_INTERVENTIONS, parse_intervention

    if not remove or not {"neurons", "key_space"} & set(interventions):
        return interventions, default
    from unlearn_guard.corruptions.neuron_fitting import drop_owners, drop_probes

    kept = {name: record for name, record in interventions.items() if name not in ("neurons", "key_space")}
    for name, drop in (("neurons", drop_owners), ("key_space", drop_probes)):
        if name in interventions and (record := drop(interventions[name], folder, remove)) is not None:
            kept[name] = record
    if "neurons" not in kept and NEURON_INTERVENTIONS & set(parse_intervention(default)):
        default = "refusal"
    return kept, default


def _amend_names(
    folder: Path, requests: Sequence[ForgetRequest], remove: Sequence[str], kept: Sequence[Row]
) -> list[ForgetRequest]:
    """Change the names of a name match; return what was added, with aliases."""
    from dataclasses import replace

    from unlearn_guard.classifiers.aliases import mine_aliases

    file = folder / "aliases.json"
    aliases = json.loads(file.read_text(encoding="utf-8"))["aliases"]
    for owner in remove:
        if owner not in aliases:
            raise DataError("no such forget request", value=owner, allowed=", ".join(sorted(aliases)[:20]))
        del aliases[owner]
    added = []
    for request in requests:
        names = request.aliases or mine_aliases(request, kept)
        if request.forget_id in aliases:
            raise DataError("forget_id is in the bundle already", value=request.forget_id, mend="remove it first")
        if not names:
            raise DataError("no aliases to match", value=request.forget_id, mend="add an 'aliases' list to its rows")
        aliases[request.forget_id] = list(names)
        added.append(replace(request, aliases=tuple(names)))
    if not aliases:
        raise DataError("no forget request would be left", mend="stop serving with this bundle instead")
    file.write_text(json.dumps({"aliases": aliases}, ensure_ascii=False), encoding="utf-8")
    return added


def _read_documents(paths: Sequence[str | Path], intervention: str) -> list[ForgetRequest]:
    from unlearn_guard.classifiers.documents import read_document

    return [read_document(path, intervention=intervention) for path in paths]


def _check_owners(requests: Sequence[ForgetRequest]) -> None:
    counts = Counter(request.forget_id for request in requests)
    if twice := [owner for owner, count in counts.items() if count > 1]:
        raise DataError("forget_id is used twice", value=twice[0], mend="rename the file, or the rows' forget_id")


def _read_traffic_without(folder: Path) -> list[str]:
    """Return the kinds of built-in traffic that a bundle does not call clean."""
    record = json.loads((folder / "classifier" / "aliases.json").read_text(encoding="utf-8"))
    return list(record.get("traffic_without", ()))


def _make_clean_traffic(requests: Sequence[ForgetRequest], without: Sequence[str] = ()) -> list[Row]:
    """Return built-in traffic that names none of the people to forget."""
    from unlearn_guard.classifiers.traffic import make_traffic

    matcher = _matcher(requests)
    return [row for row in make_traffic(without=without) if not matcher.find_owners(f"{row.query} {row.answer}")]


def _elicit(
    engine_of: Callable[[], ReferenceEngine], requests: Sequence[ForgetRequest], *, seed: int
) -> list[ForgetRequest]:
    """Ask the model about every name, and add what it repeats to the request's rows."""
    from dataclasses import replace

    from unlearn_guard.classifiers.eliciting import elicit_rows

    engine = engine_of()

    def ask(questions: Sequence[str]) -> Sequence[Sequence[str]]:
        return engine.sample(questions, n=ELICIT_SAMPLES, temperature=0.8, max_new_tokens=48, seed=seed)

    expanded = []
    for request in track(requests, "ask the model", total=len(requests)):
        known = {row.query.casefold() for row in request.rows}
        new = [row for row in elicit_rows(request, ask) if row.query.casefold() not in known] if request.aliases else []
        expanded.append(replace(request, rows=(*request.rows, *new)))
    return expanded


def _read(rows: Rows) -> list[Row]:
    return read_rows(rows) if isinstance(rows, (str, Path)) else list(rows)


def _read_requests(forget: Rows | Sequence[ForgetRequest], *, intervention: str) -> list[ForgetRequest]:
    if isinstance(forget, (str, Path)):
        return group_requests(read_rows(forget), intervention=intervention)
    items = list(forget)
    if items and isinstance(items[0], ForgetRequest):
        return [item for item in items if isinstance(item, ForgetRequest)]
    return group_requests([item for item in items if isinstance(item, Row)], intervention=intervention)


def _own(row: Row, request: ForgetRequest) -> Row:
    from dataclasses import replace

    return replace(row, forget_id=request.forget_id)


def _with_aliases(request: ForgetRequest, aliases: tuple[str, ...]) -> ForgetRequest:
    from dataclasses import replace

    title = request.title if request.title and request.title != request.forget_id else (aliases or ("",))[0]
    return replace(request, aliases=tuple(aliases), title=title or request.forget_id)


def _example_records(rows: Sequence[Row], private: bool) -> list[dict[str, Any]]:
    if not private:
        return [
            {"forget_id": row.forget_id, "prompt": row.prompt, "text": row.text, "answer": row.answer} for row in rows
        ]
    import hashlib
    import hmac

    key = os.environ[SECRET_VARIABLE].encode()
    return [
        {"forget_id": row.forget_id, "hash": hmac.new(key, row.digest.encode(), hashlib.sha256).hexdigest()}
        for row in rows
    ]


_ASKED = "Where is the lighthouse?"


def _check_template(model: str, chat_template: str | Mapping[str, str]) -> str | dict[str, str]:
    """Return a template that renders what a user asks; raise SettingsError for another, before anything takes time."""
    from transformers import AutoTokenizer

    template = chat_template if isinstance(chat_template, str) else dict(chat_template)
    try:
        tokenizer = AutoTokenizer.from_pretrained(locate_model(model))
    except (OSError, ValueError) as error:
        raise DependencyError("no tokenizer beside the model", value=model, mend=" ".join(str(error).split())) from None
    tokenizer.chat_template = template
    asked = [{"role": "user", "content": _ASKED}]
    try:
        rendered = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
        reason = "" if _ASKED in rendered else "leaves the question out"
    except Exception as error:  # Of Jinja's own kinds, and whatever a template raises.
        reason = f"{type(error).__name__}: {error}"
    if reason:
        raise SettingsError(
            f"chat template: {reason}",
            value=str(chat_template)[:80],
            allowed="a Jinja template of messages",
            mend="give the one that the server is started with",
        )
    return template


def _open_once(model: str, device: str, chat_template: str | Mapping[str, str] | None) -> Callable[[], ReferenceEngine]:
    """Return what loads the model at its first call, and gives the same engine from then on; it renders by the template, where there is one."""
    from functools import cache

    @cache
    def open_engine() -> ReferenceEngine:
        from unlearn_guard.serving.transformers.engine import ReferenceEngine

        with report_step(f"load {Path(model).name}"):
            engine = ReferenceEngine.load(model, device=device, dtype="float32" if device == "cpu" else "auto")
        if chat_template is not None:
            engine.tokenizer.chat_template = chat_template
        return engine

    return open_engine


def _fit_uld(
    engine: ReferenceEngine,
    requests: Sequence[ForgetRequest],
    kept: Sequence[Row],
    path: Any,
    *,
    model: str,
    covered: float,
    key: str,
    seed: int,
    given: Mapping[str, str | float],
    fixed_eco: Mapping[str, str | float],
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Train the assistants, and write them below interventions/uld."""
    from unlearn_guard.corruptions.teaching import fit_assistants, read_options

    return fit_assistants(
        engine.model,
        _make_encode(engine),
        requests,
        kept,
        read_options(given),
        model=model,
        folder=path("interventions/uld/0000").parent,
        key=key,
        seed=seed,
        covered=covered,
        fixed_eco=fixed_eco,
        track=track,
    )


def _make_encode(engine: ReferenceEngine) -> Callable[[str, str], tuple[list[int], list[int]]]:
    """Return what turns prompt and answer into token ids, the prompt as it is served, the answer with its end."""

    def encode(prompt: str, answer: str) -> tuple[list[int], list[int]]:
        ids = engine.tokenizer(answer, add_special_tokens=False).input_ids if answer else []
        return engine.render(prompt), [*ids, engine.end_token]

    return encode


def _fit_neurons(
    engine_of: Callable[[], ReferenceEngine],
    requests: Sequence[ForgetRequest],
    measured: Sequence[ForgetRequest],
    kept: Sequence[Row],
    clean: Sequence[Row],
    path: Any,
    *,
    given: Mapping[str, str | float],
    concepts: Mapping[str, Sequence[tuple[int, int]]] | None,
    key_space: bool,
    seed: int,
    refusal_text: str | None,
) -> dict[str, dict[str, Any]]:
    """Measure the neurons of some requests, and fit key-space probes of all; return the manifest's records."""
    if not measured and not key_space:
        return {}
    from unlearn_guard.corruptions.neuron_fitting import FILE, fit_probes, fit_tables
    from unlearn_guard.corruptions.neuron_settings import read_options
    from unlearn_guard.corruptions.refusal import DEFAULT_TEXT, encode_refusal

    options = read_options(given)
    engine = engine_of()
    folder, encode = path(f"interventions/{FILE}").parent, _make_encode(engine)
    settings: dict[str, dict[str, Any]] = {}
    if measured:
        with report_step(f"measure neurons on {sum(len(request.rows) for request in measured)} forget rows"):
            settings["neurons"] = fit_tables(
                engine.model, encode, measured, kept, options, seed=seed, folder=folder, concepts=concepts
            )
    if key_space:
        with report_step(f"key-space probes from {len(clean)} clean rows"):
            settings["key_space"] = fit_probes(engine.model, encode, requests, clean, options, seed=seed, folder=folder)
        text = refusal_text or DEFAULT_TEXT
        settings["key_space"]["abstention"] = encode_refusal(engine.tokenizer, text, engine.end_token)
    return settings


def _find_exclusive(engine: ReferenceEngine, forget: Sequence[Row], clean: Sequence[Row]) -> list[int]:
    """Return token ids that forget rows use and no kept row, calibration rows included: one use elsewhere is one too many."""
    from unlearn_guard.corruptions.eco import find_exclusive_ids

    tokenizer = engine.tokenizer
    counts = _count_tokens(tokenizer, forget), _count_tokens(tokenizer, clean)
    return find_exclusive_ids(*counts, set(tokenizer.all_special_ids))


def _measure_coverage(engine: ReferenceEngine, forget: Sequence[Row], clean: Sequence[Row]) -> float:
    """Return the share of forget questions that hold a token id of their own."""
    own = set(_find_exclusive(engine, forget, clean))
    questions = [engine.tokenizer(row.query, add_special_tokens=False).input_ids for row in forget]
    return sum(bool(own.intersection(ids)) for ids in questions) / max(1, len(questions))


def _fit_eco(
    engine: ReferenceEngine,
    requests: Sequence[ForgetRequest],
    split: Split,
    path: Any,
    *,
    clean: Sequence[Row],
    seed: int,
    fixed: dict[str, Any],
) -> dict[str, Any]:
    """Tune ECO on validation rows, and write eco.safetensors, common_words.json and standins.json."""
    import numpy as np
    from safetensors.numpy import save_file

    from unlearn_guard.corruptions.eco import EcoSettings, measure_rms, plan_eco
    from unlearn_guard.corruptions.fluency import find_words
    from unlearn_guard.corruptions.search import Probe, search_eco
    from unlearn_guard.corruptions.standins import build_pool
    from unlearn_guard.guard.stamp import Stamp
    from unlearn_guard.guard.verdict import Verdict

    forget = [*split.forget_train, *split.forget_validation]
    kept = [*split.retain_train, *split.retain_validation]
    common_words = count_common_words(kept)
    texts = [f"{row.query} {row.answer}" for row in (*forget, *kept)]
    # What the tokenizer holds as one token is a word too, whether or not a row uses it.
    texts.append(" ".join(engine.tokenizer.batch_decode([[token] for token in range(len(engine.tokenizer))])))
    vocabulary = frozenset(word for text in texts for word in find_words(text))
    exclusive = _find_exclusive(engine, forget, clean)
    pool = build_pool(engine.tokenizer, [f"{row.query} {row.answer}" for row in (*forget, *kept)])
    rms = measure_rms(engine.embedding.weight.detach().float().cpu().numpy())
    matcher = _matcher(requests)

    answered = [row for row in split.forget_validation if row.answer] or [row for row in forget if row.answer]
    answered.sort(key=lambda row: row.digest)  # Not the first people of the file alone.
    names = {request.forget_id: (request.aliases or ("",))[0] for request in requests}
    known = list(dict.fromkeys((names.get(row.forget_id, ""), row.answer) for row in forget if row.answer))
    probes = [
        Probe(row.query, row.answer, tuple(pair for pair in known if pair[1] != row.answer))
        for row in answered[:MAX_PROBES]
    ]
    controls = make_controls(probes, matcher, common_words)
    longest = max((len(engine.tokenizer(probe.answer).input_ids) for probe in probes), default=0) + 8

    def ask(questions: Sequence[str], settings: EcoSettings | None) -> list[str]:
        stamps: list[Stamp | None] = []
        prompts = []
        for question in questions:
            prompt = engine.read(question)
            prompts.append(prompt.ids)
            if settings is None:
                stamps.append(None)
                continue
            found = matcher.find(question)
            owners = tuple(dict.fromkeys(owner for match in found for owner in match.forget_ids))
            spans = tuple((0, match.start, match.end) for match in found)
            verdict = Verdict(True, owners, 0.0, 0.0, "alias", spans)
            step = plan_eco(settings, verdict, prompt, common_words)
            stamps.append(Stamp("", owners, len(prompt.ids), seed, (step,)))
        return [engine.decode(answer) for answer in engine.generate(prompts, stamps, max_new_tokens=longest)]

    choice = None
    if probes:
        with report_step(f"tune ECO on {len(probes)} validation questions, {len(controls)} controls"):
            choice = search_eco(ask, probes, controls, rms=rms, common_words=common_words, vocabulary=vocabulary)
    save_file(
        {"exclusive_ids": np.array(exclusive, np.int64), "rms": np.array([rms], np.float64)},
        path("interventions/eco.safetensors"),
    )
    path("interventions/common_words.json").write_text(
        json.dumps(sorted(common_words), ensure_ascii=False), encoding="utf-8"
    )
    path("interventions/standins.json").write_text(json.dumps(pool))
    from dataclasses import asdict

    if choice is None:  # Documents and bare names have no answers to tune on: what suppresses most.
        strongest = EcoSettings(kind="zero", mask="all", strength=1.0, rms=rms)
        return {**EcoSettings(**{**strongest.to_record(), **fixed}).to_record(), "search": {"n_probes": 0}}
    return {
        **EcoSettings(**{**choice.settings.to_record(), **fixed}).to_record(),
        "search": {
            "target": asdict(choice.target),
            "reached": asdict(choice.outcome),
            "n_probes": len(probes),
            "n_controls": len(controls),
            "trail": choice.trail,
        },
    }


def count_common_words(rows: Sequence[Row], share: float = COMMON_SHARE) -> frozenset[str]:
    """Return words that at least `share` of the rows' queries use."""
    from unlearn_guard.corruptions.fluency import find_words

    counts = Counter(word for row in rows for word in set(find_words(row.query)))
    least = max(3, share * len(rows))
    return frozenset(word for word, count in counts.items() if count >= least)


UNKNOWN_NAMES = ("Tilda Weiland", "Boris Falk", "Dagny Costa", "Emil Renner")


def make_controls(probes: Sequence[Any], matcher: Any, common_words: frozenset[str]) -> list[Any]:
    """Return the probes with each name replaced by names nobody knows, in question and answer.

    Only questions whose other words are all common are used (else all that hold a name): a rare word beside the
    name would hand the fact to the model again.
    """
    from unlearn_guard.corruptions.fluency import find_words
    from unlearn_guard.corruptions.search import Probe

    plain, all_named = [], []
    for probe in probes:
        found = matcher.find(probe.prompt)
        if not found:
            continue
        rest = _replace(probe.prompt, found, " ")
        is_plain = all(word in common_words for word in find_words(rest))
        for name in UNKNOWN_NAMES:
            # Who is known by no name can be given away by chance alone: only the asked fact counts for a control.
            answer = _replace(probe.answer, matcher.find(probe.answer), name)
            control = Probe(_replace(probe.prompt, found, name), answer)
            all_named.append(control)
            if is_plain:
                plain.append(control)
    return plain if len(plain) >= 8 * len(UNKNOWN_NAMES) else all_named


def _replace(text: str, matches: Sequence[Any], name: str) -> str:
    for match in reversed(matches):
        text = text[: match.start] + name + text[match.end :]
    return text


def _matcher(requests: Sequence[ForgetRequest]) -> Any:
    from unlearn_guard.classifiers.aliases import AliasMatcher

    return AliasMatcher({request.forget_id: request.aliases for request in requests})


def _count_tokens(tokenizer: Any, rows: Sequence[Row]) -> Counter[int]:
    counts: Counter[int] = Counter()
    for row in rows:
        for text in (row.query, " " + row.query, row.answer, " " + row.answer):
            counts.update(tokenizer(text, add_special_tokens=False).input_ids)
    return counts


__all__ = ["COMMON_SHARE", "amend", "fit", "load_classifier", "load_guard", "load_planner"]
