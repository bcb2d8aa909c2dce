import copy

import torch
import torch.nn.functional as F

from minigpt.attention import Head, KeyValueCache, MultiHeadAttention, attention_weights, causal_mask

B, T, C, NH = 2, 7, 12, 3
HS = C // NH


def heads_of(attention: MultiHeadAttention) -> list[Head]:
    """The same heads one by one, with the weights copied out of the fused matrix."""
    queries, keys, values = attention.qkv.weight.split(C)
    q_bias, k_bias, v_bias = attention.qkv.bias.split(C)
    heads = []
    for i in range(NH):
        rows = slice(i * HS, (i + 1) * HS)
        head = Head(C, HS)
        for layer, weight, bias in (
            (head.query, queries, q_bias),
            (head.key, keys, k_bias),
            (head.value, values, v_bias),
        ):
            layer.weight = torch.nn.Parameter(weight[rows].detach().clone())
            layer.bias = torch.nn.Parameter(bias[rows].detach().clone())
        heads.append(head)
    return heads


def test_every_row_of_attention_weights_sums_to_one_and_gives_the_future_nothing():
    q, k = torch.randn(2, B, T, HS)
    weights = attention_weights(q, k)
    torch.testing.assert_close(weights.sum(-1), torch.ones(B, T))
    assert (weights.masked_select(~causal_mask(T, T)) == 0).all()
    assert (weights.masked_select(causal_mask(T, T)) > 0).all()


def test_attention_weights_are_the_formula_of_the_paper():
    q, k = torch.randn(2, T, HS)
    for t in range(T):
        scores = torch.stack([q[t] @ k[s] / HS**0.5 for s in range(t + 1)])
        torch.testing.assert_close(attention_weights(q, k)[t, : t + 1], scores.exp() / scores.exp().sum())


def test_scores_keep_the_variance_of_one_whatever_the_head_size():
    generator = torch.Generator().manual_seed(0)
    for head_size in (4, 64, 512):
        q, k = torch.randn(2, 4000, head_size, generator=generator)
        scores = (q * k).sum(-1) * head_size**-0.5
        assert 0.85 < scores.var().item() < 1.15


def test_with_equal_scores_attention_is_the_average_of_the_past():
    values = torch.randn(T, HS)
    averages = attention_weights(torch.zeros(T, HS), torch.zeros(T, HS)) @ values
    for t in range(T):
        torch.testing.assert_close(averages[t], values[: t + 1].mean(0))


def test_many_heads_are_one_head_side_by_side():
    attention = MultiHeadAttention(C, NH)
    x = torch.randn(B, T, C)
    side_by_side = torch.cat([head(x) for head in heads_of(attention)], dim=-1)
    torch.testing.assert_close(attention(x), attention.proj(side_by_side))


def test_the_fast_path_equals_attention_weights_times_values():
    attention = MultiHeadAttention(C, NH)
    x = torch.randn(B, T, C)
    q, k, v = attention.heads(x)
    plain = (attention_weights(q, k) @ v).transpose(1, 2).flatten(2)
    torch.testing.assert_close(attention(x), attention.proj(plain))


def test_a_cache_gives_the_same_answers_in_any_portions():
    attention = MultiHeadAttention(C, NH).eval()
    x = torch.randn(B, T, C)
    whole = attention(x)
    for portions in ([T], [1] * T, [3, 1, 3], [2, 5]):
        cache = KeyValueCache(B, NH, T, HS, like=x)
        parts = [attention(part, cache) for part in x.split(portions, dim=1)]
        torch.testing.assert_close(torch.cat(parts, dim=1), whole)
        assert cache.length == T


def test_attention_dropout_is_off_when_the_model_is_asked_and_on_while_it_learns():
    attention = MultiHeadAttention(C, NH, dropout=0.5)
    x = torch.randn(B, T, C)
    assert not torch.equal(attention(x), attention(x))
    attention.eval()
    assert torch.equal(attention(x), attention(x))


def test_one_head_is_the_same_mathematics_with_or_without_a_dimension_of_heads():
    q, k = torch.randn(2, B, NH, T, HS)
    torch.testing.assert_close(attention_weights(q, k)[:, 1], attention_weights(q[:, 1], k[:, 1]))


def test_when_fewer_positions_ask_than_are_looked_at_they_are_the_last():
    q, k = torch.randn(2, T, HS)
    torch.testing.assert_close(attention_weights(q[-2:], k), attention_weights(q, k)[-2:])


def test_gradients_of_the_fast_path_equal_those_of_the_plain_statement():
    attention = MultiHeadAttention(C, NH)
    plain = copy.deepcopy(attention)
    x = torch.randn(B, T, C)
    attention(x).square().sum().backward()
    q, k, v = plain.heads(x)
    plain.proj((attention_weights(q, k) @ v).transpose(1, 2).flatten(2)).square().sum().backward()
    for fast, slow in zip(attention.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(fast.grad, slow.grad, rtol=1e-4, atol=1e-4)


def test_the_fast_path_is_torchs_own():
    calls = []
    original = F.scaled_dot_product_attention

    def spy(*args, **kwargs):
        calls.append(args[0].shape)
        return original(*args, **kwargs)

    F.scaled_dot_product_attention = spy
    try:
        MultiHeadAttention(C, NH)(torch.randn(B, T, C))
    finally:
        F.scaled_dot_product_attention = original
    assert calls == [(B, NH, T, HS)]
