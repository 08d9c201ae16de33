"""The feed-forward layer of encoder and decoder."""

from torch import Tensor, nn

from rayasr.model.dropout import Dropout


class FeedForward(nn.Module):
    """Two linear layers with an activation (swish or ReLU) and dropout between them."""

    def __init__(self, size: int, hidden: int, dropout_rate: float, swish: bool) -> None:
        super().__init__()
        self.w_1 = nn.Linear(size, hidden)
        self.activation = nn.SiLU() if swish else nn.ReLU()
        self.dropout = Dropout(dropout_rate)
        self.w_2 = nn.Linear(hidden, size)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) to (B, T, D)."""
        out: Tensor = self.w_2(self.dropout(self.activation(self.w_1(x))))
        return out
