"""What the store's JSON says: descriptors, layers, stacks and the index, as strict frozen models.

A layer and a stack are OCI manifests. Their identity is the digest of the manifest, which is a function of content
alone: a stack's holds base, order, layers and scales, and no date or history, so dropping what was just added gives
back the identical digest.

Source: OCI image-spec 1.1, manifest.md and descriptor.md.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from lamina.config import Quantisation

__all__ = [
    "LAYER_TYPE",
    "REF_KEY",
    "STACK_TYPE",
    "BasePin",
    "Cost",
    "DataSource",
    "Descriptor",
    "Index",
    "LayerConfig",
    "Manifest",
    "StackConfig",
    "StackEntry",
]

LAYER_TYPE = "application/vnd.lamina.layer.config.v1+json"
STACK_TYPE = "application/vnd.lamina.stack.config.v1+json"
REF_KEY = "org.opencontainers.image.ref.name"
_Finite = Annotated[float, Field(allow_inf_nan=False)]  # JSON has no NaN: it would come back as null
_MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
_INDEX_TYPE = "application/vnd.oci.image.index.v1+json"


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
    artifactType: str | None = None  # noqa: N815
    annotations: dict[str, str] = Field(default_factory=dict)


class Manifest(_Record):
    """An OCI image manifest."""

    schemaVersion: Literal[2] = 2  # noqa: N815
    mediaType: str = _MANIFEST_TYPE  # noqa: N815
    artifactType: str  # noqa: N815
    config: Descriptor
    layers: tuple[Descriptor, ...]


class Index(_Record):
    """An OCI image index: every layer and stack, with refs as annotations."""

    schemaVersion: Literal[2] = 2  # noqa: N815
    mediaType: str = _INDEX_TYPE  # noqa: N815
    manifests: tuple[Descriptor, ...] = ()


class BasePin(_Record):
    """Which base, by content: ``digest`` covers weights, configuration, tokenizer, template and quantisation.

    ``quantise`` is written only where there is some, so that every other base keeps the spelling, and its stacks the
    digests, that they had before there was any.
    """

    name: str
    digest: str
    family: str
    template_digest: str
    tokenizer_digest: str
    source: str
    quantise: Quantisation = "none"

    @model_serializer(mode="wrap")
    def _spell(self, spell: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = spell(self)
        if self.quantise == "none":
            del fields["quantise"]
        return fields


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


class LayerConfig(_Record):
    """A layer's provenance.

    Attributes:
        parent: digest of the stack it was trained on top of; the bare base has one too.
        weights: digest of its safetensors blob, scale folded in.
        rows: digest of the list of row identities it has seen, held-out rows included.
        replay: digest of a sample of its rows, for later layers to rehearse.
        heldout: digest of the rows kept out of training.
        heldout_loss_before: nats per trained token on those rows under the parent; ``after`` under parent and layer.
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


class StackEntry(_Record):
    """One layer's place in a stack."""

    layer: str
    name: str
    scale: _Finite = 1.0


class StackConfig(_Record):
    """A stack: the base and the layers on it, bottom first."""

    format: Literal[1] = 1
    base: BasePin
    layers: tuple[StackEntry, ...]
