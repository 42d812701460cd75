"""What the store's JSON says: descriptors, layers, stacks and the index, as strict frozen models.

A layer and a stack are known by the digest of their config, as Docker knows an image; the OCI manifest around it only
says which blobs travel along. The config is a function of content alone: a stack's holds base, order, layers and
scales, and no date or history, so dropping what was just added gives back the identical digest.

Source: OCI image-spec 1.1, manifest.md and descriptor.md; media types of weights and data sets and the file path
annotation from the CNCF ModelPack specification, docs/spec.md.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from lamina.config import Quantisation
from lamina.refs import Digest

__all__ = [
    "DATASET_TYPE",
    "EMPTY_TYPE",
    "ID_KEY",
    "LAYER_TYPE",
    "PATH_KEY",
    "REF_KEY",
    "ROWS_TYPE",
    "STACK_TYPE",
    "TAG_KEY",
    "TITLE_KEY",
    "WEIGHTS_TYPE",
    "BasePin",
    "Cost",
    "DataSource",
    "Descriptor",
    "Index",
    "LayerConfig",
    "Manifest",
    "Origin",
    "StackConfig",
    "StackEntry",
]

LAYER_TYPE = "application/vnd.lamina.layer.config.v1+json"
STACK_TYPE = "application/vnd.lamina.stack.config.v1+json"
WEIGHTS_TYPE = "application/vnd.cncf.model.weight.v1.raw"
DATASET_TYPE = "application/vnd.cncf.model.dataset.v1.raw"
ROWS_TYPE = "application/vnd.lamina.layer.rows.v1+text"
EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
REF_KEY = "org.opencontainers.image.ref.name"
TITLE_KEY = "org.opencontainers.image.title"
PATH_KEY = "org.cncf.model.filepath"
ID_KEY = "vnd.lamina.id"
TAG_KEY = "vnd.lamina.tag"
_Finite = Annotated[float, Field(allow_inf_nan=False)]  # JSON has no NaN: it would come back as null
_MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
_INDEX_TYPE = "application/vnd.oci.image.index.v1+json"


def _is_unset(value: object) -> bool:
    """Return whether a field that came later says nothing; it is left out then, and the digest is as before it came."""
    return value is None


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    def canonical(self) -> bytes:
        """Return the record as JSON in its one spelling: no spaces, fields in the order of their definition."""
        return self.model_dump_json().encode()


class Descriptor(_Record):
    """What names a blob: its type, digest and size."""

    mediaType: str  # noqa: N815  (the spec's spelling)
    digest: str
    size: int
    artifactType: str | None = Field(None, exclude_if=_is_unset)  # noqa: N815
    annotations: dict[str, str] = Field(default_factory=dict)


class Manifest(_Record):
    """An OCI image manifest."""

    schemaVersion: Literal[2] = 2  # noqa: N815
    mediaType: str = _MANIFEST_TYPE  # noqa: N815
    artifactType: str  # noqa: N815
    config: Descriptor
    layers: tuple[Descriptor, ...]

    @property
    def digest(self) -> str:
        """The digest of the manifest itself, by which a registry pins it."""
        return str(Digest.of_bytes(self.canonical()))


class Index(_Record):
    """An OCI image index: every layer and stack, with refs as annotations."""

    schemaVersion: Literal[2] = 2  # noqa: N815
    mediaType: str = _INDEX_TYPE  # noqa: N815
    manifests: tuple[Descriptor, ...] = ()


class BasePin(_Record):
    """Which base, by content: ``digest`` covers weights, configuration, tokenizer, template and quantisation."""

    name: str
    digest: str
    family: str
    template_digest: str
    tokenizer_digest: str
    source: str
    quantise: Quantisation = Field("none", exclude_if=lambda how: how == "none")


class DataSource(_Record):
    """A file that a layer was trained on."""

    file: str
    digest: str
    rows: int


class Cost(_Record):
    """What training a layer took. ``seconds`` is wall time inside steps."""

    tokens: int
    trained_tokens: int
    seconds: float
    steps: int

    @classmethod
    def total(cls, costs: Sequence[Cost]) -> Cost:
        """Return the sum of ``costs``; of none, nothing."""
        return cls(
            tokens=sum(cost.tokens for cost in costs),
            trained_tokens=sum(cost.trained_tokens for cost in costs),
            seconds=sum((cost.seconds for cost in costs), 0.0),
            steps=sum(cost.steps for cost in costs),
        )


class Origin(_Record):
    """How a layer came to be that was not trained on rows here: by which ``method``, from which ``layers``.

    ``scales`` belong to ``layers``; ``notes`` hold what the method has to tell, an error or a source.
    """

    method: str
    layers: tuple[str, ...] = ()
    scales: tuple[_Finite, ...] = ()
    notes: dict[str, Any] = Field(default_factory=dict)


class LayerConfig(_Record):
    """A layer's provenance.

    Attributes:
        parent: digest of the stack it was trained on top of; the bare base has one too.
        weights: digest of its safetensors blob, scale folded in.
        rows: digest of the list of row identities it has seen, held-out rows included.
        replay: digest of a sample of its rows, for later layers to rehearse.
        heldout: digest of the rows kept out of training.
        heldout_loss_before: nats per trained token on those rows under the parent; ``after`` under parent and layer.
        origin: how it was made, if not by training on rows.
        licence: what its owner says that others may do with it, None if nothing was said.
        stood_in: names of layers below whose rows were not here to replay, so that the stack's own writing was.
        mixed_in: tokens of other rows it was trained on (replayed, or written by a model) for each of its own; None
            where that was not yet recorded.
    """

    format: Literal[1] = 1
    name: str
    base: BasePin
    parent: str
    weights: str
    rank: int
    modules: tuple[str, ...]
    recipe: dict[str, Any]
    recipe_origins: dict[str, str]
    data: tuple[DataSource, ...]
    rows: str
    replay: str | None
    heldout: str | None
    cost: Cost
    heldout_loss_before: float | None
    heldout_loss_after: float | None
    machine: dict[str, Any]
    versions: dict[str, str]
    created: str
    origin: Origin | None = Field(None, exclude_if=_is_unset)
    licence: str | None = Field(None, exclude_if=_is_unset)
    stood_in: tuple[str, ...] | None = Field(None, exclude_if=_is_unset)
    mixed_in: _Finite | None = Field(None, exclude_if=_is_unset)


class StackEntry(_Record):
    """One layer's place in a stack; ``moved`` says that it was put, on purpose, on another stack than its parent."""

    layer: str
    name: str
    scale: _Finite = 1.0
    moved: bool = Field(False, exclude_if=operator.not_)


class StackConfig(_Record):
    """A stack: the base and the layers on it, bottom first."""

    format: Literal[1] = 1
    base: BasePin
    layers: tuple[StackEntry, ...]

    def prefix(self, height: int) -> StackConfig:
        """Return the stack of the lowest ``height`` layers; as with slices, -1 leaves out the top one."""
        return self.model_copy(update={"layers": self.layers[:height]})
