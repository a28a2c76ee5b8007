"""What a distillation can be told."""

from __future__ import annotations

from dataclasses import dataclass

from stenopool.training.options import SKIP, STOP, LoopOptions

LABELS = ("pseudo", "reference")
ENCODER, EMBEDDINGS = "encoder", "embeddings"

# What may be another on resuming besides that of all trainings.
CACHE = frozenset({"cache_gb"})

WINDOW_SECONDS = 30.0  # that Whisper hears at once; its own module would load NumPy


@dataclass(frozen=True, slots=True, kw_only=True)
class DistilOptions(LoopOptions):
    """How a student learns from its teacher.

    Attributes:
        decoder_layers: Layers of the student's decoder, taken from the teacher's at the widest
            distances: for two, the first and the last.
        labels: What is learned: pseudo, or reference for the given texts.
        ce_weight: Of the cross-entropy on the labels.
        kl_weight: Of the divergence from the teacher.
        temperature: That both distributions are softened by for the divergence.
        timestamps: Probability that a window is learned with its timestamps.
        previous: Probability that it is told the text before it.
        train_encoder: Let the student's encoder learn too.
        train_embeddings: Let the embeddings of tokens and positions learn too.
        mask_time: Longest of two masks of SpecAugment in time, in frames of 10 ms; 0 is none.
        mask_mel: Longest of two masks of SpecAugment in frequency, in mel bins; 0 is none.
        noise: Probability that noise is added, of 5 to 30 dB below the speech.
        speed: Play each window faster or slower by up to this share; 0 leaves it.
        copies: Ways that each window is augmented in, taken in turn; 0 is another one in every
            epoch, which keeps the encoder at work.
        split_tokens: Share of the tokens that are told as two, as those of rare words are; what
            comes there is learned from the teacher alone.
        cache_gb: Room on the disk for what the encoder makes of the windows and their copies; what
            does not fit is computed anew in every epoch.
        greedy_tokens: Most tokens that are written for a window in an evaluation.
        on_bad: What becomes of windows that cannot be used: skip counts them, stop names the first.
    """

    batch_seconds: float = 8.0 * WINDOW_SECONDS
    learning_rate: float = 3e-4
    weight_decay: float = 0.0
    decoder_layers: int = 2
    labels: str = "pseudo"
    ce_weight: float = 0.8
    kl_weight: float = 1.0
    temperature: float = 2.0
    timestamps: float = 0.2
    previous: float = 0.2
    train_encoder: bool = False
    train_embeddings: bool = False
    mask_time: int = 0
    mask_mel: int = 0
    noise: float = 0.0
    speed: float = 0.0
    copies: int = 0
    split_tokens: float = 0.0
    cache_gb: float = 20.0
    greedy_tokens: int = 224
    on_bad: str = STOP

    def __post_init__(self) -> None:
        LoopOptions.__post_init__(self)  # `super()` knows no class that `slots` has made anew
        self._check_name("labels", LABELS)
        self._check_name("on_bad", (SKIP, STOP))
        for name in ("timestamps", "previous", "noise"):
            self._check(name, 0 <= getattr(self, name) <= 1, "a probability")
        for name in ("ce_weight", "kl_weight", "cache_gb"):
            self._check(name, 0 <= getattr(self, name) < 1e9, "0 or more")
        self._check("kl_weight", self.ce_weight + self.kl_weight > 0, "something to learn from")
        self._check("temperature", 0 < self.temperature < 1000, "more than 0")
        self._check("speed", 0 <= self.speed < 0.5, "a share from 0 to below 0.5")
        self._check("mask_time", 0 <= self.mask_time <= 3000, "0 to 3000 frames")
        self._check("mask_mel", 0 <= self.mask_mel <= 80, "0 to 80 bins")
        self._check("split_tokens", 0 <= self.split_tokens < 1, "a share from 0 to below 1")
        self._check("copies", 0 <= self.copies < 1_000_000, "0 or more")
        self._check("decoder_layers", self.decoder_layers >= 1, "1 or more")
        self._check("greedy_tokens", 1 <= self.greedy_tokens <= 448, "1 to 448")

    @property
    def batch_windows(self) -> int:
        """Windows of a batch; each counts as 30 s, which is what the encoder hears."""
        return max(1, int(self.batch_seconds // WINDOW_SECONDS))

    @property
    def augments(self) -> bool:
        """Whether a window sounds otherwise each time."""
        return bool(self.mask_time or self.mask_mel or self.noise or self.speed)

    @property
    def sounds(self) -> int:
        """How many ways each window sounds; 0 is another one in every epoch."""
        return self.copies if self.augments else 1
