import pytest
import torch
from torch.utils.data import ConcatDataset, Dataset, StackDataset, Subset, TensorDataset

from lightning_magics.runs.fingerprint import describe


def of(*values):
    return TensorDataset(torch.tensor(values, dtype=torch.float32))


def test_the_same_values_are_the_same_and_others_are_not():
    assert describe(of(1, 2)) == describe(of(1, 2))
    assert describe(of(1, 2)) != describe(of(1, 3))
    assert describe(of(1, 2)).startswith("2 of TensorDataset, ")


def test_parts_and_their_order_count():
    whole = of(*range(10))
    assert describe(Subset(whole, [1, 2])) != describe(Subset(whole, [2, 1]))
    assert describe(Subset(whole, [1, 2])).startswith("2 of TensorDataset, ")
    assert describe(ConcatDataset([whole, of(1)])) != describe(ConcatDataset([of(1), whole]))
    assert describe(StackDataset(a=torch.ones(2))) != describe(StackDataset(a=torch.zeros(2)))


@pytest.mark.parametrize("shape", [(100_000,), (1000, 3, 40), (5, 200_000), (2, 0), ()])
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.int64, torch.bool])
def test_tensors_of_any_size_and_type(shape, kind):
    tensor = torch.zeros(shape, dtype=kind)
    found = describe(tensor)
    assert found == describe(tensor.clone())
    if tensor.numel():
        tensor.view(-1)[0] = 1
        assert found != describe(tensor)


def test_other_datasets_are_known_by_type_and_length_and_never_read():
    class Own(Dataset):
        def __len__(self):
            return 1234

        def __getitem__(self, index):
            raise AssertionError("read")

    own = Own()
    assert describe(own) == "1,234 of Own"
    own.tokens = torch.ones(3)  # an attribute is looked at
    assert describe(own).startswith("1,234 of Own, ")
    assert describe(iter([1])) == "list_iterator"
