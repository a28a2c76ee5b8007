"""Models to begin with: a small one at random, or weights that are given."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from stenopool.audio import SAMPLE_RATE
from stenopool.errors import ModelDamaged, ModelUnavailable, UsageError
from stenopool.models.files import WAV2VEC2
from stenopool.settings import settings
from stenopool.training.options import AUTO, TINY, CtcOptions
from stenopool.training.vocabulary import DELIMITER, Vocabulary

if TYPE_CHECKING:
    import torch

VOCABULARY = "vocab.json"

# Made for two cores: a hundredth of the multiplications of wav2vec 2.0's convolutions, whose first
# layers see 3200 frames a second. Layer norms, without which such a model does not begin to learn.
# A frame of 10 ms, half of wav2vec 2.0's: in a word of a fifth of a second CTC needs one for each
# letter.
TINY_SHAPE: dict[str, Any] = {
    "conv_dim": (32, 64, 128, 128),
    "conv_stride": (10, 4, 2, 2),
    "conv_kernel": (20, 8, 4, 4),
    "conv_bias": True,
    "num_feat_extract_layers": 4,
    "feat_extract_norm": "layer",
    "hidden_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 512,
    "num_conv_pos_embeddings": 32,
    "num_conv_pos_embedding_groups": 8,
    "do_stable_layer_norm": True,
    "hidden_dropout": 0.1,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "feat_proj_dropout": 0.0,
    "final_dropout": 0.1,
    # No fewest number of masks: one alone would hide a letter of each short word.
    "mask_time_prob": 0.08,
    "mask_time_length": 8,
    "mask_time_min_masks": 0,
    "mask_feature_prob": 0.05,
    "mask_feature_length": 8,
}


def hush() -> None:
    """Let Transformers draw no bars of its own for each file that it reads or writes, and not warn
    that the head of a model that could not write yet is new."""
    logging: Any = import_module("transformers.utils.logging")
    logging.disable_progress_bar()
    logging.set_verbosity_error()


def own_vocabulary(init: str) -> Vocabulary | None:
    """The vocabulary of a folder whose model writes already; none for other weights.

    Raises:
        InputUnreadable, UsageError: its `vocab.json` is none.
    """
    path = Path(init) / VOCABULARY
    return Vocabulary.read(path) if init != TINY and path.is_file() else None


def ctc_model(init: str, vocabulary: Vocabulary, options: CtcOptions) -> Any:  # noqa: ANN401
    """A `Wav2Vec2ForCTC` that writes this vocabulary.

    Args:
        init: `tiny`, a folder in Transformers' layout, or an id of the Hugging Face Hub.

    Raises:
        ModelError: the weights cannot be had, or are not what they should be.
        UsageError: they are of another kind of model.
    """
    import torch

    torch.manual_seed(options.seed)
    settled: dict[str, Any] = {
        "vocab_size": len(vocabulary),
        "pad_token_id": vocabulary.blank,
        "bos_token_id": None,
        "eos_token_id": None,
        "layerdrop": 0.0,  # processes would wait for the gradient of a layer that is left out
        "ctc_zero_infinity": True,
        **_overrides(options),
    }
    model = _tiny(settled) if init == TINY else _given(init, vocabulary, settled)
    if options.freeze == "yes" or (options.freeze == AUTO and init != TINY):
        model.freeze_feature_encoder()
    mask = getattr(model.wav2vec2, "masked_spec_embed", None)
    if mask is not None and not model.config.mask_time_prob:
        mask.requires_grad_(False)  # it would never have a gradient
    if options.checkpointing:
        newer = getattr(model, "activation_checkpointing_enable", None)  # from Transformers 5 on
        (newer or model.gradient_checkpointing_enable)({"use_reentrant": False})
    return model


def processor(vocabulary: Vocabulary, init: str, model: Any) -> Any:  # noqa: ANN401
    """The `Wav2Vec2Processor` that belongs to the model: tokenizer and feature extractor."""
    library: Any = import_module("transformers")  # its types are not meant for others
    with TemporaryDirectory(prefix="stenopool-") as folder:
        path = Path(folder) / VOCABULARY
        path.write_text(vocabulary.document(), encoding="utf-8")
        tokenizer = library.Wav2Vec2CTCTokenizer(
            str(path),
            bos_token=None,
            eos_token=None,
            unk_token=vocabulary.unknown,
            pad_token=vocabulary.pad,
            word_delimiter_token=DELIMITER,
        )
    extractor = _extractor(init)
    if extractor is None:
        # Where normalisation is over groups, a mask would tell the model of silence it never heard.
        masked = model.config.feat_extract_norm == "layer"
        extractor = library.Wav2Vec2FeatureExtractor(
            feature_size=1,
            sampling_rate=SAMPLE_RATE,
            padding_value=0.0,
            do_normalize=True,
            return_attention_mask=masked,
        )
    if extractor.sampling_rate != SAMPLE_RATE:
        raise UsageError(
            f"`{init}` hears {extractor.sampling_rate} samples a second",
            do=f"Choose a model for {SAMPLE_RATE}",
        )
    return library.Wav2Vec2Processor(feature_extractor=extractor, tokenizer=tokenizer)


def parameters(model: torch.nn.Module) -> dict[str, int]:
    """How many there are, and how many are trained."""
    every = list(model.parameters())
    return {
        "parameters": sum(one.numel() for one in every),
        "trained_parameters": sum(one.numel() for one in every if one.requires_grad),
    }


def _overrides(options: CtcOptions) -> dict[str, Any]:
    chosen: dict[str, Any] = {}
    if options.dropout >= 0:
        for name in ("hidden_dropout", "attention_dropout", "final_dropout"):
            chosen[name] = options.dropout
    if options.mask_time >= 0:
        chosen["mask_time_prob"] = options.mask_time
    if options.mask_feature >= 0:
        chosen["mask_feature_prob"] = options.mask_feature
    return chosen


def _tiny(settled: dict[str, Any]) -> Any:  # noqa: ANN401
    from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

    return Wav2Vec2ForCTC(Wav2Vec2Config(**{**TINY_SHAPE, **settled}))


def _given(init: str, vocabulary: Vocabulary, settled: dict[str, Any]) -> Any:  # noqa: ANN401
    import torch
    from transformers import AutoConfig, Wav2Vec2ForCTC

    _check_kind(init)
    try:
        config = AutoConfig.from_pretrained(init, local_files_only=_local(init))
        if config.model_type != WAV2VEC2:
            raise _other_kind(init, config.model_type)
        for name, value in settled.items():
            setattr(config, name, value)
        model: Any = Wav2Vec2ForCTC.from_pretrained(
            init,
            config=config,
            ignore_mismatched_sizes=True,
            dtype=torch.float32,
            local_files_only=_local(init),
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise _not_loaded(init, error) from error
    if own_vocabulary(init) != vocabulary:
        model._init_weights(model.lm_head)  # its numbers meant other characters
    return model


def _check_kind(init: str) -> None:
    """Refuse another kind of model by its name, before its weights are read."""
    path = Path(init) / "config.json"
    if not Path(init).is_dir():
        return
    try:
        kind = json.loads(path.read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        raise ModelDamaged(
            f"`{init}` has no `config.json` that can be read: {error!s:.200}",
            do="Give a folder in Transformers' layout",
        ) from error
    if kind != WAV2VEC2:
        raise _other_kind(init, kind)


def _other_kind(init: str, kind: object) -> UsageError:
    return UsageError(f"`{init}` is a `{kind}` model", do="Give a wav2vec 2.0 model")


def _extractor(init: str) -> Any:  # noqa: ANN401
    if init == TINY:
        return None
    from transformers import Wav2Vec2FeatureExtractor

    try:
        return Wav2Vec2FeatureExtractor.from_pretrained(init, local_files_only=_local(init))
    except (OSError, ValueError):
        return None


def _local(init: str) -> bool:
    return settings().offline or Path(init).is_dir()


def _not_loaded(init: str, error: Exception) -> Exception:
    if Path(init).is_dir():
        return ModelDamaged(
            f"`{init}` cannot be loaded: {error!s:.300}",
            do="Give a folder with `config.json` and `model.safetensors` of one model",
        )
    return ModelUnavailable(
        f"`{init}` is no folder, and not to be had from the hub: {error!s:.300}",
        do="Check path or id; with `STENO_OFFLINE` nothing is fetched",
    )
