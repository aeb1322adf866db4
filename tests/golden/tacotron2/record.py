"""Records a small model of NVIDIA/tacotron2 with random weights, its inputs and outputs: cases.npz.

    pip install -e '.[reference]'
    python tests/golden/tacotron2/record.py CHECKOUT      # of NVIDIA/tacotron2, commit 185cd24

The names are those of tools/parity.py's cases. The dropout of the pre-net, which the reference never switches off, is
replaced by given masks; everything else runs in evaluation mode, with random batch statistics.
"""

# pyright: reportMissingImports=false

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np

CONFIG = {
    "n_symbols": 14, "symbols_embedding_dim": 12, "encoder_kernel_size": 5, "encoder_n_convolutions": 2,
    "encoder_embedding_dim": 12, "n_frames_per_step": 1, "decoder_rnn_dim": 14, "prenet_dim": 10,
    "max_decoder_steps": 9, "gate_threshold": 0.5, "p_attention_dropout": 0.1, "p_decoder_dropout": 0.1,
    "attention_rnn_dim": 16, "attention_dim": 8, "attention_location_n_filters": 4,
    "attention_location_kernel_size": 7, "postnet_embedding_dim": 8, "postnet_kernel_size": 5,
    "postnet_n_convolutions": 3, "mask_padding": True, "n_mel_channels": 6, "fp16_run": False,
}  # fmt: skip


def main(checkout: str) -> None:
    import torch

    sys.path.insert(0, checkout)
    import model as reference
    import utils
    from loss_function import Tacotron2Loss

    def mask_of(lengths: torch.Tensor) -> torch.Tensor:
        return torch.arange(int(lengths.max()))[None] < lengths[:, None]

    utils.get_mask_from_lengths = reference.get_mask_from_lengths = mask_of
    torch.manual_seed(3)
    net = reference.Tacotron2(SimpleNamespace(**CONFIG)).eval()
    with torch.no_grad():
        for name, tensor in net.state_dict().items():
            if name.endswith("running_var") or name.endswith(".1.weight"):
                tensor.uniform_(0.5, 1.5)
            elif tensor.dtype.is_floating_point and tensor.ndim == 1:
                tensor.normal_(0, 0.3)
    # The longest text first, as packed sequences want them.
    x = {"text": torch.randint(1, 14, (2, 8)), "text_lengths": torch.tensor([8, 5])}
    x |= {"mel": torch.randn(2, 6, 11), "output_lengths": torch.tensor([11, 7])}
    x["text"][1, 5:] = 0
    x["mel"][1, :, 7:] = 0
    x["gate_target"] = (torch.arange(11)[None] >= x["output_lengths"][:, None] - 1).float()
    x |= {f"prenet_mask.{i}": torch.randint(0, 2, (12, 2, 10)).float() for i in range(2)}
    x["inference_drop_mask"] = torch.randint(0, 2, (9, 2, 1, 10)).float()
    queue: list[torch.Tensor] = []

    def prenet(self, values):
        for layer in self.layers:
            values = torch.relu(layer(values))
            values = values * queue.pop(0) * 2 if queue else values
        return values

    reference.Prenet.forward = prenet
    out: dict[str, torch.Tensor] = {}
    with torch.no_grad():
        target = (x["mel"], x["gate_target"])
        for name in ("nodrop", "drop"):
            queue[:] = [x["prenet_mask.0"], x["prenet_mask.1"]] if name == "drop" else []
            inputs = (x["text"], x["text_lengths"], x["mel"], 8, x["output_lengths"])
            found = net(inputs)
            kinds = ("mel", "mel_postnet", "gate", "alignments")
            out |= {f"{name}.{kind}": value.clone() for kind, value in zip(kinds, found)}
            out[f"{name}.loss"] = Tacotron2Loss()(found, target)
        out["encoder"] = net.encoder(net.embedding(x["text"]).transpose(1, 2), x["text_lengths"])
        go = torch.cat([torch.zeros(1, 2, 6), x["mel"].permute(2, 0, 1)])
        out["prenet_nodrop"] = net.decoder.prenet(go)
        net.decoder.gate_threshold = 1.0
        gates = net.inference(x["text"][:1])[2].sigmoid().flatten()
        place = int(gates[2:7].argmax()) + 2
        x["inference_stop.gate_threshold"] = (gates[:place].max() + gates[place]) / 2
        for name in ("inference_max", "inference_stop", "inference_drop"):
            stop = name == "inference_stop"
            net.decoder.gate_threshold = float(x["inference_stop.gate_threshold"]) if stop else 1.0
            queue[:] = list(x["inference_drop_mask"].flatten(0, 1)) if name == "inference_drop" else []
            for kind, value in zip(("mel", "mel_postnet", "gate", "alignments"), net.inference(x["text"][:1])):
                out[f"{name}.{kind}"] = value[..., 0] if kind == "gate" else value
        assert 3 <= out["inference_stop.mel"].shape[2] < 9
    arrays = {f"w/{name}": value.numpy() for name, value in net.state_dict().items()}
    arrays |= {f"in.{name}": value.numpy() for name, value in x.items()}
    arrays |= {f"out.{name}": value.numpy() for name, value in out.items()}
    arrays["meta"] = np.array(json.dumps({"system": "tacotron2", "config": CONFIG}))
    np.savez_compressed(Path(__file__).with_name("cases.npz"), **arrays)


if __name__ == "__main__":
    main(sys.argv[1])
