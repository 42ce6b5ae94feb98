"""What a checkpoint is: the family of gated models that it belongs to, and what shows it.

Keys tell most families. Some have exactly the base's keys and shapes and are another function; what tells those is, in
turn, which tensors of the encoder were never trained, which parameters have optimizer state, options, and copies of the
training code beside the checkpoint, which are hashed and never run. Saved predictions decide what is left
(`qd_detr.gates.runs.told_apart`). Evidence that contradicts itself, or the reading asked for, is refused.
"""

from __future__ import annotations

import hashlib
import re
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from qd_detr.gates.errors import CheckpointError, first_few
from qd_detr.gates.gating import GATING_TYPES
from qd_detr.gates.model.architecture import GATE_OUTPUT
from qd_detr.gates.model.families import BASE, FAMILIES, Family, family_named

_ENCODER = r"^transformer\.(encoder|t2v_encoder)\.layers\.\d{1,9}\."
_BASE_GATE = r"^fusion\.fusion_layers\.\d{1,9}\.gating_function\.mlp_(mha|ffn)\."
_CODE_MEMBERS = {"code.zip": "code/avigate_custom.py"}
_MOST_CODE = 8 << 20


@dataclass(frozen=True)
class Evidence:
    """What one source says: the families it allows, in the order of `FAMILIES`, and a sentence."""

    source: str
    allows: tuple[str, ...]
    sentence: str


@dataclass(frozen=True)
class Recognition:
    """What a checkpoint is, as far as it can be told.

    Attributes:
        candidates: the families that everything found allows; one if it is certain.
        evidence: what was found.
        asked: the family that the user named, or None.
    """

    candidates: tuple[str, ...]
    evidence: tuple[Evidence, ...] = ()
    asked: str | None = None

    @property
    def family(self) -> str:
        """The family to run it as: the one asked for, or the first candidate."""
        return self.asked or self.candidates[0]

    @property
    def certain(self) -> bool:
        """Whether evidence, not a choice, leaves one family."""
        return len(self.candidates) == 1

    @property
    def undecided(self) -> str:
        """A sentence on what is open and what would decide it; empty where nothing is."""
        if self.certain:
            return ""
        chosen = "as you asked" if self.asked else "as the first of them"
        return (
            f"this checkpoint may be of {len(self.candidates)} families that have the same weights: "
            f"{', '.join(self.candidates)}; it is run as {self.family}, {chosen}. What would decide it: the run's own "
            "transformer.py, model.py and code.zip beside the checkpoint, its best_*_val_preds.jsonl with the data they "
            "were made of, or you, with --family"
        )

    @property
    def facts(self) -> dict[str, Any]:
        """It as plain JSON data."""
        return {
            "name": self.family,
            "candidates": list(self.candidates),
            "asked": self.asked,
            "evidence": [
                {"source": one.source, "allows": list(one.allows), "says": one.sentence} for one in self.evidence
            ],
        }

    def narrowed(self, evidence: Evidence) -> Recognition:
        """Return it with one more source.

        Raises:
            CheckpointError: the source contradicts the others, or the family asked for.
        """
        return _weighed(self.candidates, (*self.evidence, evidence), self.asked)


def recognise(
    weights: Mapping[str, Tensor],
    options: Sequence[Mapping[str, Any]],
    *,
    folder: Path | None = None,
    with_state: Iterable[str] | None = None,
    own: bool = False,
    asked: str | None = None,
) -> Recognition:
    """Return what a checkpoint is.

    Args:
        options: the sources of options there are, strongest first.
        folder: where copies of the training code may lie.
        with_state: the keys whose parameters have optimizer state; None if nothing is known of it.
        own: this project's trainer wrote it, which trains the base alone.
        asked: the family that the user names.

    Raises:
        CheckpointError: no known family; evidence that contradicts itself or the family asked for.
        RequestError: the family asked for is not known.
    """
    if asked is not None:
        family_named(asked)
    marked = [name for name, family in FAMILIES.items() if family.marked(weights)]
    if len(marked) > 1:
        raise CheckpointError(
            f"these weights have keys of several families, {', '.join(marked)}; nothing known has them"
        )
    if marked:
        evidence = [Evidence("keys", tuple(marked), f"its keys are those of {marked[0]}")]
        evidence += _copies(folder, marked)
        return _weighed(tuple(marked), tuple(evidence), asked)
    if not any(re.match(_BASE_GATE, key) for key in weights):
        _refuse(weights)
    if own:
        return _weighed((BASE,), (Evidence("trainer", (BASE,), "this project's trainer wrote it"),), asked)
    likely = _with_the_keys_of_the_base(weights, options)
    found = [_encoder_weights(weights, likely), _encoder_state(weights, with_state, likely)]
    found += [_options(options, likely), *_copies(folder, likely)]
    evidence = [one for one in found if one is not None]
    if asked is not None and asked not in likely and FAMILIES[asked].marks is None:
        likely = [*likely, asked]  # one that nothing recognises: the user alone can name it
        evidence = [replace(one, allows=(*one.allows, asked)) for one in evidence]
    return _weighed(tuple(likely), tuple(evidence), asked)


def _weighed(candidates: Sequence[str], evidence: tuple[Evidence, ...], asked: str | None) -> Recognition:
    left = tuple(name for name in candidates if all(name in one.allows for one in evidence))
    said = "; ".join(f"{one.sentence} ({' or '.join(one.allows) or 'no family known'})" for one in evidence)
    if not left:
        raise CheckpointError(
            f"what tells the family of this checkpoint contradicts itself: {said}. It is analysed as none of them; give "
            "the checkpoint with the files of its own run beside it, or without those of another"
        )
    if asked is not None and asked not in left:
        raise CheckpointError(
            f"--family {asked} contradicts what this checkpoint shows: {said or 'its keys'}; leave --family out, or "
            f"give {' or '.join(left)}"
        )
    return Recognition(left, evidence, asked)


def _refuse(weights: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError that names what weights of no known family look like."""
    telling = [key for key in weights if re.search(r"gat(e|ing)(?![a-z])|gate_|fusion", key)]
    if "global_rep_token" not in weights or "query_embed.weight" not in weights:
        absent = "global_rep_token" if "global_rep_token" not in weights else "query_embed.weight"
        raise CheckpointError(
            f"these weights are not those of a QD-DETR model: no {absent} among {len(weights)} keys "
            f"({first_few(sorted(weights))}); give a checkpoint of a QD-DETR model with AVIGATE fusion"
        )
    if not telling:
        raise CheckpointError(
            "this is a plain QD-DETR model: it has no fusion.* weights (use_avigate_custom was false), hence no gates "
            "to analyse; give a checkpoint trained with use_avigate_custom"
        )
    raise CheckpointError(
        f"this is a QD-DETR model with a fusion or gates of its own ({first_few(telling)}), of none of the families known "
        f"here ({', '.join(FAMILIES)}); load it with its own code and give the model to "
        "adapt_legacy_model(model, record_only=True), which records its gates and changes nothing"
    )


def _with_the_keys_of_the_base(weights: Mapping[str, Tensor], options: Sequence[Mapping[str, Any]]) -> list[str]:
    last = weights.get(GATE_OUTPUT)  # without it, that it is missing is told where sizes are read
    wide = last is not None and last.dim() > 0 and last.shape[0] > 1
    possible = {gating.name for gating in GATING_TYPES.values() if gating.per_channel == wide}
    stated = next((one["gating_type"] for one in options if "gating_type" in one), None)
    possible = {stated} if isinstance(stated, str) and stated in possible else possible
    return [
        name
        for name, family in FAMILIES.items()
        if family.untrained is not None and (family.gating_type is None or family.gating_type in possible)
    ]


def _encoder_weights(weights: Mapping[str, Tensor], likely: Sequence[str]) -> Evidence | None:
    """Tell by the encoder's tensors that still have the value they start from."""
    at_start = {key: _as_it_starts(key, value) for key, value in weights.items() if re.match(_ENCODER, key)}
    untouched = {key for key, start in at_start.items() if start}
    if any(key.startswith("transformer.t2v_encoder.") for key in untouched):
        # Nothing of the model was trained: an encoder as it starts does not tell it from those that skip theirs.
        untouched = set()
    watched = {key for key, start in at_start.items() if start is not None and ".encoder." in key}
    return _untrained_evidence("weights", watched, untouched, likely, "as they were initialised")


def _encoder_state(
    weights: Mapping[str, Tensor], with_state: Iterable[str] | None, likely: Sequence[str]
) -> Evidence | None:
    known = set() if with_state is None else set(with_state)
    if not known:
        return None
    encoder = {key for key in weights if key.startswith("transformer.encoder.layers.")}
    return _untrained_evidence("optimizer", encoder, encoder - known, likely, "without optimizer state")


def _untrained_evidence(
    source: str, watched: set[str], untrained: set[str], likely: Sequence[str], how: str
) -> Evidence | None:
    if not watched:
        return None
    here = {key for key in watched if key in untrained}
    allows = tuple(
        name
        for name in likely
        if here == {key for key in watched if re.search(FAMILIES[name].untrained or r"(?!)", key)}
    )
    told = f"{len(here)} of {len(watched)} tensors of the encoder are {how}"
    return Evidence(source, allows, told)


def _as_it_starts(key: str, value: Tensor) -> bool | None:
    """Whether a tensor has the value it starts from; None where that is drawn by chance."""
    if re.search(r"\.norm[12]\.weight$", key):
        start = 1.0
    elif re.search(r"\.(norm[12]\.bias|self_attn\.in_proj_bias|self_attn\.out_proj\.bias)$", key):
        start = 0.0
    elif key.endswith(".activation.weight"):
        start = 0.25
    else:
        return None
    dense = value.is_floating_point() and not value.is_sparse and not value.is_meta  # others are refused later
    return bool((value == start).all()) if dense else None


def _options(options: Sequence[Mapping[str, Any]], likely: Sequence[str]) -> Evidence | None:
    for name in likely:
        stated = [option for option in FAMILIES[name].option_names if any(option in source for source in options)]
        if stated:
            return Evidence("options", (name,), f"its options have {', '.join(stated)}")
    return None


def _copies(folder: Path | None, likely: Sequence[str]) -> list[Evidence]:
    """Tell by the hashes of the training code's copies beside the checkpoint."""
    found = []
    for file in ("transformer.py", "model.py", "code.zip"):
        content = None if folder is None else _code(folder / file)
        if content is None:
            continue
        name = _CODE_MEMBERS.get(file, file)
        digest = hashlib.sha256(content).hexdigest()
        all_of_it = [one for one, family in FAMILIES.items() if _known(family, name, digest)]
        if all_of_it:
            # Some code trains the base too, under another option than the one that makes its own family.
            shared = {one for other in all_of_it for one in FAMILIES[other].code_also_of if other not in likely}
            allows = tuple(one for one in FAMILIES if one in {*all_of_it, *shared} and one in FAMILIES)
            found.append(Evidence(file, allows, f"{file} is the copy that a run of {' or '.join(allows)} leaves"))
        elif name == "transformer.py" and (marks := _marks(content)):
            told = " and ".join(dict.fromkeys(marks.values()))
            found.append(Evidence(file, tuple(marks), f"{file}, an edited copy, {told}"))
    return found


def _marks(content: bytes) -> dict[str, str]:
    """Return the families whose transformer.py an edited copy shows, each with what shows it."""
    present = {
        name: f"has {family.code_mark}"
        for name, family in FAMILIES.items()
        if family.code_mark and family.code_mark.encode() in content
    }
    if present or b"class Transformer" not in content:
        return present
    return {
        name: f"has {family.code_without[:-1]} and never calls it"
        for name, family in FAMILIES.items()
        if family.code_without and _never_called(family.code_without, content)
    }


def _never_called(call: str, content: bytes) -> bool:
    """Return whether the name of a call stands in some code, and the call itself in comments alone."""
    of_code = rb"(?m)^[^#\n]*" + re.escape(call.encode())
    return call[:-1].encode() in content and not re.search(of_code, content)


def _known(family: Family, name: str, digest: str) -> bool:
    return any(digest.startswith(prefix) for prefix in family.copies.get(name, ()))


def _code(path: Path) -> bytes | None:
    """Return the bytes of a copy, or of its member in an archive; None if there is none that can be read."""
    try:
        if not path.is_file() or path.stat().st_size > _MOST_CODE:
            return None
        if path.suffix != ".zip":
            return path.read_bytes()
        with zipfile.ZipFile(path) as archive:
            member = archive.getinfo(_CODE_MEMBERS[path.name])
            return None if member.file_size > _MOST_CODE else archive.read(member)
    except (OSError, KeyError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError):
        return None  # no copy that anything could be told by
