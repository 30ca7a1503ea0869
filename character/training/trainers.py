"""TRL's trainers with losses normalised over the effective batch, so micro-batches and devices do not change results.

TRL's DPO averages each micro-batch and then averages those means, which gives more weight to the tokens of short
micro-batches. TRL's SFT normalises correctly, but on a CPU it projects every position onto the vocabulary, where only those
of the answers are needed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import torch
from accelerate.utils import gather_object
from datasets import disable_progress_bars
from peft import set_peft_model_state_dict
from safetensors.torch import load_file
from tqdm.auto import tqdm
from transformers.trainer_callback import PrinterCallback
from trl import DPOTrainer, SFTTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from character.core.errors import UserError
from character.core.lora import ADAPTER_WEIGHTS
from character.training.conversation_tokens import IGNORED_LABEL
from character.training.curve_callback import CurveCallback

disable_progress_bars()  # tokenizing takes a second; bars are only for what takes minutes

PADDING_ID = 0  # any id will do: attention and labels are masked there, and many models have no token for padding


class BatchTotals(NamedTuple):
    """The size of one effective batch: examples, answer tokens, and answer tokens of chosen answers (pairs only)."""

    examples: int
    tokens: int
    chosen: int


def answer_log_probs(model, input_ids, attention_mask, labels) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Return one tensor of token log-probabilities (nats) per sequence, and the summed entropy (nats) of these predictions.

    The projection onto the vocabulary is costly, so it is computed only where some sequence of the batch has a label.

    Args:
        input_ids: `[rows, length]`, like `attention_mask` and `labels`.
        labels: the token ids to score, and IGNORED_LABEL elsewhere.
    """
    targets = labels[:, 1:]
    mask = targets != IGNORED_LABEL
    kept = mask.any(0).nonzero().squeeze(1)
    logits = model(input_ids=input_ids, attention_mask=attention_mask, logits_to_keep=kept, use_cache=False).logits
    mask = mask[:, kept]
    logps = logits.float().log_softmax(-1)
    with torch.no_grad():
        entropy = -(logps.exp() * logps).sum(-1)[mask].sum()
    chosen = logps.gather(-1, targets[:, kept].clamp(min=0).unsqueeze(-1)).squeeze(-1)
    return [row[answer] for row, answer in zip(chosen, mask, strict=True)], entropy


class LengthGroupedSampler(torch.utils.data.Sampler):
    """Shuffles in each epoch and sorts each effective batch by length, which saves padding and keeps the gradients.

    `lengths` are in tokens; `batch` is the effective batch size over all devices.
    """

    def __init__(self, lengths: list[int], batch: int, seed: int):
        self.lengths, self.batch, self.seed = lengths, batch, seed
        self.epoch = 0

    def __len__(self):
        return len(self.lengths)

    def set_epoch(self, epoch: int):
        """Select the order of an epoch."""
        self.epoch = epoch

    def __iter__(self):
        generator = torch.Generator().manual_seed(self.seed)
        for _ in range(self.epoch + 1):
            order = torch.randperm(len(self), generator=generator)
        for batch in order.split(self.batch):
            yield from sorted(batch.tolist(), key=lambda index: -self.lengths[index])


class EffectiveBatchMixin:
    """Passes the totals of the effective batch to each micro-batch, and sums the shares that these report, over all devices."""

    loss_is_scaled_for_ga = True

    def __init__(self, name: str, max_length: int, stop_when_saturated: bool = False, **kwargs):
        super().__init__(**kwargs)
        self.shares = {}
        for parameter in self.model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()  # TRL casts these to bfloat16 if quantised, too coarse for AdamW
        self.remove_callback(PrinterCallback)
        self.curve = CurveCallback(name, stop_when_saturated)
        self.add_callback(self.curve)
        everything = self.train_dataset
        self.train_dataset = everything.filter(lambda row: self.example_length(row) <= max_length, desc="Measuring")
        self.dropped = len(everything) - len(self.train_dataset)
        if not len(self.train_dataset):
            raise UserError(f"params.yaml: {name}.max_length {max_length} is shorter than every example; raise it.")

    def _get_train_sampler(self, train_dataset=None):
        batch = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.accelerator.num_processes
        self.order = LengthGroupedSampler([self.example_length(row) for row in self.train_dataset], batch, self.args.seed)
        return self.order

    def _run_epoch(self, *, epoch, **more):
        self.order.set_epoch(epoch)  # in a resumed epoch on several devices, the trainer's own call does not reach it
        return super()._run_epoch(epoch=epoch, **more)

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        """Load only the new adapter's weights; transformers would make an earlier adapter the active one."""
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            return super()._load_from_checkpoint(resume_from_checkpoint, model)
        weights = load_file(Path(resume_from_checkpoint, ADAPTER_WEIGHTS))
        set_peft_model_state_dict(self.model, weights, "default")

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        totals = torch.tensor([self.batch_totals(batch) for batch in batches], device=self.args.device).sum(0)
        return batches, BatchTotals(*self.accelerator.reduce(totals).tolist())

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch: BatchTotals | None = None):
        # Gradients are averaged over the devices, but the losses are shares of a sum.
        return self.micro_batch_loss(model, inputs, num_items_in_batch) * self.accelerator.num_processes

    def add_curve_values(self, **shares):
        for name, share in shares.items():
            self.shares[name] = self.shares.get(name, 0.0) + share.item()

    def log(self, logs, start_time=None):
        if self.shares:
            totals = self.accelerator.reduce(torch.tensor(list(self.shares.values()), device=self.args.device))
            logs = logs | dict(zip(self.shares, totals.tolist(), strict=True))
        super().log(logs, start_time)
        self.shares = {}


@dataclass
class PreferenceCollator(DataCollatorForPreference):
    """Puts the chosen answers before the rejected ones, and adds the reference log-probability of every answer token."""

    def torch_call(self, examples):
        reference = [row.pop(f"ref_{side}_logps", []) for side in ("chosen", "rejected") for row in examples]
        return super().torch_call(examples) | {"reference": torch.tensor(list(chain(*reference)))}


class PreferenceTrainer(EffectiveBatchMixin, DPOTrainer):
    """DPO whose loss is `objective(logps, reference, totals) -> (loss, shares)`.

    `logps` and `reference` hold one tensor of token log-probabilities (nats) per answer: the chosen answers, then the rejected
    ones in the same order. `shares` are scalars whose sum over the effective batch is a row of the curve. The reference, the
    model without its adapter, is computed once per pair instead of at every step, which saves a forward pass.
    """

    def __init__(self, objective: Callable, **kwargs):
        super().__init__(data_collator=PreferenceCollator(pad_token_id=PADDING_ID), **kwargs)
        self.objective = objective
        self._add_reference_log_probs()

    def _prepare_dataset(self, dataset, *arguments):
        return dataset  # tokenized already, which TRL does not notice

    def example_length(self, row) -> int:
        return len(row["prompt_ids"]) + max(len(row["chosen_ids"]), len(row["rejected_ids"]))

    def batch_totals(self, batch) -> BatchTotals:
        mask = batch["completion_mask"]
        pairs = len(mask) // 2
        return BatchTotals(pairs, int(mask.sum()), int(mask[:pairs].sum()))

    def micro_batch_loss(self, model, inputs, totals: BatchTotals) -> torch.Tensor:
        logps, entropy = self._batch_log_probs(model, inputs)
        reference = inputs["reference"].split([len(row) for row in logps])
        loss, shares = self.objective(logps, reference, totals)
        self.add_curve_values(**shares, entropy=entropy / totals.tokens)
        return loss

    def _batch_log_probs(self, model, batch):
        labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, IGNORED_LABEL)
        return answer_log_probs(model, batch["input_ids"], batch["attention_mask"], labels)

    @torch.no_grad()
    def _add_reference_log_probs(self):
        self.model.eval()
        rows = list(self.train_dataset.select_columns(["prompt_ids", "chosen_ids", "rejected_ids"]))
        # Each device computes its own share.
        first, size = self.accelerator.process_index, self.args.per_device_train_batch_size
        mine = range(first, len(rows), self.accelerator.num_processes)
        log_probs = {}
        with self.model.disable_adapter():
            for start in tqdm(range(0, len(mine), size), desc="reference", unit="batch", disable=first > 0):
                indices = mine[start : start + size]
                batch = self._prepare_inputs(self.data_collator([rows[index] for index in indices]))
                logps = [row.tolist() for row in self._batch_log_probs(self.model, batch)[0]]
                log_probs |= zip(indices, zip(logps[: len(indices)], logps[len(indices) :], strict=True), strict=True)
        everything = dict(gather_object(list(log_probs.items())))
        for side, name in enumerate(("ref_chosen_logps", "ref_rejected_logps")):
            self.train_dataset = self.train_dataset.add_column(name, [everything[index][side] for index in range(len(rows))])


class ConversationTrainer(EffectiveBatchMixin, SFTTrainer):
    """SFT on every assistant turn: the mean negative log-probability of the turns' tokens in the effective batch."""

    def __init__(self, **kwargs):
        super().__init__(data_collator=DataCollatorForLanguageModeling(pad_token_id=PADDING_ID), **kwargs)

    def example_length(self, row) -> int:
        return len(row["input_ids"])

    def batch_totals(self, batch) -> BatchTotals:
        return BatchTotals(len(batch["labels"]), int((batch["labels"][:, 1:] != IGNORED_LABEL).sum()), 0)

    def micro_batch_loss(self, model, inputs, totals: BatchTotals) -> torch.Tensor:
        logps, entropy = answer_log_probs(model, inputs["input_ids"], inputs["attention_mask"], inputs["labels"])
        self.add_curve_values(entropy=entropy / totals.tokens)
        return -torch.cat(logps).sum() / totals.tokens
