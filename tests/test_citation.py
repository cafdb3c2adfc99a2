"""`flowrax.citation`: what is found, where, and that a BibTeX parser would accept it."""

import functools
import pathlib
import re

import diffrax
import equinox as eqx
import jax
import pytest

import flowrax as frx
from flowrax import _base

PACKAGE = pathlib.Path(frx.__file__).parent
FOUNDATIONS = ["flowrax", "jax", "kidger2021equinox", "kidger2021on"]


class AbstractPart(eqx.Module):
    r"""A base with a reference.

    ??? cite "Reference"

        ```bibtex
        @article{base2020,
            title={Bases},
            year={2020},
        }
        ```
    """


class Part(AbstractPart):
    """A final class with two references in one block, one of them on a single line.

    ??? cite "Reference"

        ```bibtex
        @book{part2021, title={Parts}, year={2021}}
        @misc{other2022,
            author={Some One},
            title={A {N}ested {T}itle},
        }
        ```
    """

    scale: float


class Whole(eqx.Module):
    """No reference of its own."""

    part: eqx.Module
    options: dict
    solver: object = eqx.field(static=True)


def cited_function(x):
    """A function with a reference.

    ```bibtex
    @misc{function2023,
        title={Functions},
    }
    ```
    """
    return x


def parse_bibtex(text):
    """The keys of a `.bib` file by BibTeX's own rule: entries from `@` to the matching brace."""
    keys, position = [], 0
    while (start := text.find("@", position)) >= 0:
        opening = text.index("{", start)
        assert re.fullmatch(r"@[a-z]+\s*", text[start:opening])
        depth, position = 1, opening + 1
        while depth:
            depth += {"{": 1, "}": -1}.get(text[position], 0)
            position += 1
        key, *fields = text[opening + 1 : position - 1].split(",")
        assert "=" in ",".join(fields)
        keys.append(key.strip())
    return keys


def keys_of(*objects):
    return parse_bibtex(frx.citation(*objects))


def test_the_software_is_always_cited():
    assert keys_of() == FOUNDATIONS
    assert f"version = {{{frx.__version__}}}" in frx.citation()
    assert f"version = {{{jax.__version__}}}" in frx.citation()


@pytest.mark.parametrize(
    "holder",
    [
        lambda part: part,
        lambda part: Whole(part, {}, None),
        lambda part: Whole(eqx.nn.Identity(), {"a": [(part,)]}, None),
        lambda part: Whole(eqx.nn.Identity(), {}, part),
        lambda part: functools.partial(print, part),
        lambda part: [part, part],
        type,
    ],
)
def test_references_are_found_wherever_the_object_is(holder):
    assert keys_of(holder(Part(1.0))) == [*FOUNDATIONS, "part2021", "other2022", "base2020"]


@pytest.mark.parametrize(
    "holder",
    [
        lambda f: f,
        lambda f: functools.partial(f, 1),
        jax.jit,
        eqx.filter_jit,
        diffrax.ODETerm,
        lambda f: eqx.nn.Lambda(f),
    ],
)
def test_functions_are_asked_too(holder):
    assert keys_of(holder(cited_function)) == [*FOUNDATIONS, "function2023"]


def test_bound_methods_lead_to_their_object():
    class Field(eqx.Module):
        part: Part

        def drift(self, t, x, args):
            return x

    term = diffrax.ODETerm(Field(Part(1.0)).drift)
    assert "part2021" in keys_of(term)


def test_every_key_is_in_the_table_and_every_entry_is_cited():
    text = "".join(path.read_text() for path in sorted(PACKAGE.rglob("*.py")))
    assert set(_base.citation._references()) == set(re.findall(r"\[@(\w.*?)\]", text))
    assert "```bibtex\n" not in text


def test_the_table_is_sorted_bibtex_with_what_a_reference_needs():
    text = (PACKAGE / "_base" / "references.bib").read_text()
    keys = parse_bibtex(text)
    assert keys == sorted(set(keys)) == list(_base.citation._references())
    for entry in _base.citation._references().values():
        assert all(f"    {field}={{" in entry for field in ("author", "title", "year")), entry
        assert re.search(r"    (journal|booktitle|school|publisher)=\{", entry), entry
        # Nothing had to be repaired: what is read is what stands there.
        assert entry in text


def test_docstrings_of_flowrax_cite_by_key():
    assert keys_of(frx.VariancePreserving()) == [*FOUNDATIONS, "song2021score"]
    assert "% Cited by flowrax.VariancePreserving:\n@inproceedings{song2021score," in frx.citation(
        frx.VariancePreserving
    )


def test_a_key_of_flowrax_that_is_not_in_the_table_raises():
    def careless():
        """Cites [@nobody1900nothing]."""

    # In the docstrings of others, a key may mean anything.
    assert keys_of(careless) == FOUNDATIONS
    careless.__module__ = "flowrax.careless"
    with pytest.raises(KeyError, match="nobody1900nothing"):
        frx.citation(careless)


def test_diffrax_solvers_and_controllers():
    assert "tsitouras2011runge" in keys_of(diffrax.Tsit5())
    assert "foster2023high" in keys_of({"solver": diffrax.SEA()})
    assert "soderlind2003digital" in keys_of(diffrax.PIDController(rtol=1e-3, atol=1e-3))


def test_every_diffrax_docstring_gives_valid_bibtex():
    documented = [
        member
        for member in vars(diffrax).values()
        if isinstance(member, type) and "```bibtex" in (member.__doc__ or "")
    ]
    expected = {
        key
        for member in documented
        for block in re.findall(r"```bibtex(.*?)```", member.__doc__ or "", re.DOTALL)
        for key in re.findall(r"@\w+\{\s*([^,\s]+)", block)
    }
    assert len(documented) > 10
    assert set(keys_of(documented)) == expected | set(FOUNDATIONS)


def test_each_key_once():
    part = Part(1.0)
    keys = keys_of(part, Part(2.0), [part], diffrax.Tsit5(), diffrax.Tsit5())
    assert keys == [*FOUNDATIONS, "part2021", "other2022", "base2020", "tsitouras2011runge"]


def test_a_field_left_open_is_closed():
    def broken():
        """Its first entry misses a brace.

        ```bibtex
        @misc{open2020,
            title={{O}pen {E}nded,
            year={2020},
        }
        @misc{bare2021
            title={No {C}omma after the key, no brace at the end},
        @misc{next2021,
            title={Next},
        }
        ```
        """

    assert keys_of(broken) == [*FOUNDATIONS, "open2020", "bare2021", "next2021"]
    assert "title={{O}pen {E}nded}" in frx.citation(broken)


def test_cycles_end():
    loop = []
    loop.append(loop)
    assert keys_of(loop) == FOUNDATIONS


def test_nothing_is_printed(capsys):
    frx.citation(diffrax.Tsit5())
    assert capsys.readouterr() == ("", "")
