"""Text: the contract tests, and tests of vocabularies, sections, exact likelihoods, and hostile files."""

import csv
import itertools
import json
import os
import time
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from shala_text import Text, transformer
from shala_text.decoder import TextDecoder, nucleus
from shala_text.encoder import TextEncoder
from shala_text.reading import decode_utf8, normalise
from shala_text.sections import keep_sections
from shala_text.vocabulary import END, PAD, Vocabulary
from torch import Tensor

from shala_framework.plugin import DataError
from shala_framework.plugin.testing import ModalitySuite

DATA = Path(os.environ.get("SHALA_DATA", Path(__file__).parents[3] / "../shared/data"))
SENTENCES = (
    "The heart is normal in size.",
    "No pleural effusion or pneumothorax.",
    "Both lungs are clear.",
    "Größe 12,5 cm, unverändert…",
    "Mild scoliosis of the spine, unchanged since 2004.",
)


class TestText(ModalitySuite):
    modality = Text
    options: ClassVar = {"max_tokens": 32, "vocabulary_size": 300, "width": 32, "num_layers": 2, "heads": 2}
    likelihood_skips_padding = True
    empty_is_missing = True
    density_options: ClassVar = {"temperature": 1.0, "top_p": 1.0}
    independent_values = False  # see test_probabilities_of_all_texts_sum_to_one

    def sample_fields(self, index: int) -> dict[str, bytes]:
        return {"txt": f"{SENTENCES[index % 5]} {SENTENCES[(index + 2) % 5]}"[: 30 + index].encode()}


def test_a_typed_text_is_read_like_a_file_of_it() -> None:
    """Under the first of the fields, whatever that is called; half of a surrogate pair is no text."""
    text = Text(max_tokens=32, vocabulary_size=300, fields=("caption", "txt"))
    text.fit({"txt": sentence.encode()} for sentence in SENTENCES)
    typed = text.typed(SENTENCES[3])
    assert typed == {"caption": SENTENCES[3].encode()}
    assert torch.equal(text.read(typed), text.read({"txt": SENTENCES[3].encode()}))  # type: ignore[arg-type]
    with pytest.raises(DataError, match="caption"):
        text.read(text.typed("a\ud800"))


class TestReport(TestText):
    """Sections of a report, small letters, another field, one layer."""

    options: ClassVar = {
        "fields": ("report", "txt"), "sections": ("FINDINGS", "IMPRESSION"), "lower_case": True, "word_dropout": 0.0,
        "max_tokens": 64, "vocabulary_size": 290, "width": 16, "num_layers": 1, "heads": 1,
        "temperature": 0.7, "top_p": 0.9,
    }  # fmt: skip

    def sample_fields(self, index: int) -> dict[str, bytes]:
        return {"report": f" HISTORY: Pain.\n FINDINGS:\n {SENTENCES[index % 5]}\n\nIMPRESSION: {index}.\n".encode()}


def fitted(*texts: str, **options: object) -> Text:
    """A modality fitted to these texts, small unless the options say otherwise."""
    text = Text(Text.Options(**{"width": 16, "num_layers": 1, "heads": 2, **options}))
    text.fit({"txt": one.encode()} for one in texts or SENTENCES)
    return text


def again(text: Text, x: Tensor) -> Tensor | None:
    """x written and read."""
    return text.read(text.write(x))


# The vocabulary.


def test_vocabulary_depends_on_the_samples_alone() -> None:
    """The same texts in another order give the same vocabulary, bit for bit; other texts another one."""
    texts = [f"{a} {b}" for a, b in itertools.product(SENTENCES, SENTENCES)]
    states = [fitted(*some, vocabulary_size=320).state() for some in (texts, texts, texts[::-1], texts[:7])]
    assert states[0] == states[1] == states[2] != states[3]


def test_vocabulary_has_at_most_the_size_asked_for() -> None:
    """Merges stop at the size, or where nothing occurs twice; all bytes are there, and any text can be written."""
    assert fitted(*SENTENCES * 20, vocabulary_size=300).vocabulary.num_tokens == 300
    assert fitted("abc", vocabulary_size=2000).vocabulary.num_tokens == 258
    vocabulary = Vocabulary.fit(["abc"] * 9, 2000)
    for text in ("日本語", "\N{GRINNING FACE}", "naïve", "\u00a7 <pad> </s>", *SENTENCES):
        assert vocabulary.decode(vocabulary.encode(text, 200)) == text


def test_no_text_can_spell_the_end() -> None:
    """The end and padding are not words: a frequent word gets one token, the end one, and the rest is padding."""
    x = fitted(*["seven"] * 9, max_tokens=8).read({"txt": b"seven"})
    assert x is not None
    assert x.tolist() == [int(x[0]), END, *[PAD] * 6]
    assert x[0] >= 258


def test_fit_streams() -> None:
    """Samples are asked for one at a time and not kept; those without text are passed over."""
    alive: list[bytes] = []

    def stream():
        for index in range(2000):
            yield {"txt": b" "} if index % 5 == 0 else {"png": b"1"} if index % 5 == 1 else {"txt": b"w%d ab" % index}
            alive.append(b"")

    text = Text(Text.Options(vocabulary_size=259))
    text.fit(stream())
    assert len(alive) == 2000
    assert text.vocabulary.num_tokens == 259


def test_fit_names_what_is_wrong() -> None:
    """A field that is not text, and shards without any text, are errors of the data, with what to do."""
    text = Text(Text.Options(sections=("FINDINGS",)))
    with pytest.raises(DataError, match=r"'txt': expected UTF-8 text, got the byte 0xff at offset 2"):
        text.fit([{"txt": b"FINDINGS: None."}, {"txt": b"ab\xff"}])
    with pytest.raises(DataError, match=r"\['txt'\] with one of the sections \['FINDINGS'\], got none"):
        text.fit([{"txt": b"IMPRESSION: None."}, {"jpg": b"1"}])


def test_reading_before_fit_is_an_error() -> None:
    """Nothing can be read, shown or saved without a vocabulary; networks have the largest size that they may need."""
    text = Text(Text.Options())
    for attempt in (lambda: text.read({"txt": b"a"}), text.state, lambda: text.preview(torch.ones(96))):
        with pytest.raises(ValueError, match="call fit or load_state"):
            attempt()
    assert text.encoder(4)(torch.randint(0, 2000, (2, 96))).shape == (2, 4)


def changed(**model: object) -> str:
    """A vocabulary's JSON with some keys of its model replaced."""
    state = json.loads(fitted("abc").state()["vocabulary"])
    state["model"] |= model
    return json.dumps(state)


@pytest.mark.parametrize(
    "state",
    [
        {}, {"vocabulary": 3}, {"vocabulary": "{}"}, {"vocabulary": "no JSON"}, {"vocabulary": "[]"},
        {"vocabulary": changed(vocab={"a": 0}, merges=[])}, {"vocabulary": changed(merges=[["a", "q"]])},
        {"vocabulary": changed(type="WordLevel", unk_token="a")},
        {"vocabulary": changed(vocab={chr(0x4E00 + i): i for i in range(300)}, merges=[])},
        {"vocabulary": changed(), "more": 1},
    ],
)  # fmt: skip
def test_foreign_states_are_refused(state: dict[str, object]) -> None:
    """Neither other JSON nor another kind of vocabulary passes, and the modality keeps the one it had."""
    text = fitted("abc abc")
    before = text.state()
    with pytest.raises(ValueError, match="expected a"):
        text.load_state(state)
    assert text.state() == before


# Reading and writing.


def test_white_space_and_unicode_are_normalised() -> None:
    """Line breaks, control characters, a byte order mark and decomposed accents do not make another text."""
    text = fitted()
    plain = text.read({"txt": "Größe und Größe".encode()})
    for variant in ("\ufeff Gro\u0308ße\r\n\tund\f Größe \n", "Größe\x1b\x07und\u00a0Größe"):
        assert torch.equal(text.read({"txt": variant.encode()}), plain)
    assert normalise("LEFT  Lung", lower_case=True) == "left lung"
    assert normalise("LEFT  Lung", lower_case=False) == "LEFT Lung"


@pytest.mark.parametrize("data", [b"", b" ", b"\n\r\n\t", b"\xef\xbb\xbf", "\u00a0\x07".encode()])
def test_blank_text_is_missing(data: bytes) -> None:
    """A file without a word is a missing modality, and the others can be learned from."""
    assert fitted().read({"txt": data}) is None
    text = Text(max_tokens=8, vocabulary_size=300)
    text.fit({"txt": sample} for sample in (data, b"a word", data))
    assert text.read({"txt": b"a word"}) is not None


def test_texts_that_are_cut_are_counted() -> None:
    """The tokens of a text with its end are told from max_tokens on, and a text that fits is not counted."""
    text = Text(max_tokens=8, vocabulary_size=258)
    text.fit([{"txt": b"abcdefg"}])
    assert text.cut_off({"txt": b"abcdefg"}) is None
    cut = text.cut_off({"txt": b"abcdefgh"})
    assert cut is not None
    assert (cut.excess, cut.amount) == ("have more than max_tokens = 8 tokens", 9)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"Gr\xf6\xdfe", r"0xf6 at offset 2 of 5 .*convert the file to UTF-8"),
        ("Größe".encode()[:3], r"0xc3 at offset 2 of 3 \(unexpected end of data\)"),
        ("text".encode("utf-16"), "0xff at offset 0"),
        (b"\xef\xbb", r"0xef at offset 0 of 2 \(unexpected end of data\)"),
        (b"RIFF\0\0WAVE", r"U\+0000 at position 4, as in a binary file"),
    ],
)
def test_other_bytes_are_a_data_error(data: bytes, message: str) -> None:
    """The message names the field, the place and the cure."""
    with pytest.raises(DataError, match=message) as caught:
        fitted().read({"txt": data})
    assert "'txt'" in str(caught.value)


def test_first_field_wins() -> None:
    """If several fields exist, the first in the options' order is read."""
    text = fitted(fields=("report", "txt"))
    assert text.preview(text.read({"txt": b"one", "report": b"two"})).text == "two"


@pytest.mark.parametrize("max_tokens", range(8, 40))
def test_a_long_text_is_cut_to_a_text(max_tokens: int) -> None:
    """The first words and an end are kept, no half character and no half byte, and reading them again keeps them."""
    whole = "".join(f"{sentence}日本 e\u0301\u0323 \N{GRINNING FACE} don't" for sentence in SENTENCES)
    text = fitted(*SENTENCES * 3, vocabulary_size=290, max_tokens=max_tokens)
    x = text.read({"txt": whole.encode()})
    assert x is not None
    shown = text.preview(x).text
    assert shown
    assert normalise(whole, lower_case=False).startswith(shown)
    assert (x == END).sum() == 1
    assert (x != PAD).sum() >= max_tokens - 5  # a character has at most four bytes
    assert torch.equal(again(text, x), x)


def test_values_of_a_text_do_not_depend_on_its_longest() -> None:
    """A text has as many values as tokens that are scored, whatever `max_tokens` is; a full one's end is certain."""
    counts = []
    for max_tokens in (24, 400):
        text = fitted(*SENTENCES * 3, vocabulary_size=290, max_tokens=max_tokens)
        rows = [text.read({"txt": words.encode()}) for words in ("No.", "Both lungs", SENTENCES[3] * 9)]
        x = torch.stack([row for row in rows if row is not None])
        counts.append(text.count_values(x).tolist())
        assert counts[-1][:2] == (x[:2] != PAD).sum(1).tolist()
    assert counts[0][:2] == counts[1][:2]
    assert 23 == counts[0][2] < counts[1][2]


def test_a_huge_text_is_cut() -> None:
    """Ten million characters without a space are read as their beginning."""
    text = fitted(max_tokens=8)
    x = text.read({"txt": b"ab" * 5_000_000})
    assert x is not None
    assert text.preview(x).text == "abababa"


@pytest.mark.parametrize("sections", [(), ("FINDINGS",)])
def test_a_huge_text_costs_no_more_than_what_is_kept(sections: tuple[str, ...]) -> None:
    """20 MB of different words are fitted to and read at once, wherever white space or a character ends."""
    words = " ".join(f"w{number:x}" for number in range(2_000_000))
    data = f"{' ' * 3_000_000}FINDINGS: Gr\u00f6\u00dfe {words}".encode()
    text = Text(Text.Options(max_tokens=8, max_bytes=1025, width=16, heads=2, num_layers=1, sections=sections))
    began = time.process_time()
    text.fit([{"txt": data}])
    for max_bytes in range(1024, 1030):  # within a character of two bytes, or not
        assert decode_utf8("\u00e4".encode() * 2000, "txt", max_bytes) == "\u00e4" * (max_bytes // 2)
    x = text.read({"txt": data})
    assert time.process_time() - began < 2
    assert x is not None
    assert text.preview(x).text
    assert "FINDINGS: Gr\u00f6\u00dfe".startswith(str(text.preview(x).text)[:8])


def test_any_tokens_can_be_shown() -> None:
    """Whatever an untrained decoder generates is shown and written without control characters."""
    text = fitted()
    for x in torch.randint(
        0, text.vocabulary.num_tokens, (50, *text.shape), generator=torch.Generator().manual_seed(0)
    ):
        shown = text.write(x)["txt"].decode()
        assert shown.endswith("\n")
        assert all(character >= " " for character in shown[:-1])


# Sections.

REPORT = """                                 FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)

 INDICATION:  ___ year old woman with cough.  // impression: pneumonia?

 TECHNIQUE:  Chest PA and lateral

 COMPARISON:  ___

 FINDINGS:

 PA and lateral views of the chest provided.  LUNGS: clear.
 The following: no effusion.

 IMPRESSION:

 No acute intrathoracic process.
"""
FINDINGS = "FINDINGS: PA and lateral views of the chest provided. LUNGS: clear. The following: no effusion."
IMPRESSION = "IMPRESSION: No acute intrathoracic process."
BOTH = ("FINDINGS", "IMPRESSION")


@pytest.mark.parametrize(
    ("report", "wanted", "expected"),
    [
        (REPORT, ("FINDINGS", "IMPRESSION"), f"{FINDINGS} {IMPRESSION}"),
        (REPORT, ("impression",), IMPRESSION),
        (REPORT.replace("\n", "\r\n"), ("FINDINGS",), FINDINGS),
        (REPORT, ("INDICATION",), "INDICATION: ___ year old woman with cough. // impression: pneumonia?"),
        (REPORT, ("CONCLUSION", "WET READ"), ""),
        ("Findings:\n Clear.\n\nimpression : Old.", ("FINDINGS", "IMPRESSION"), "FINDINGS: Clear. IMPRESSION: Old."),
        ("FINDINGS: Clear. IMPRESSION: Normal.", ("IMPRESSION",), "IMPRESSION: Normal."),
        ("FINDINGS AND IMPRESSION:  Clear.", ("IMPRESSION",), "FINDINGS AND IMPRESSION: Clear."),
        ("Findings/Impressions: Clear.", ("FINDINGS",), "FINDINGS/IMPRESSIONS: Clear."),
        ("IMPRESSION\n Clear.\nNOTIFICATION:  Phoned.", ("IMPRESSION",), "IMPRESSION: Clear."),
        ("FINDINGS (CHEST): Clear.\n HISTORY: Pain.", ("FINDING",), "FINDINGS: Clear."),
        ("WET READ: ___ 9:53 PM\n  Clear.\n______\n    FINAL REPORT\n Old text.", ("WET READ",),
         "WET READ: ___ 9:53 PM Clear. ______"),
        ("FINDINGS: \n\n IMPRESSION: Clear.", ("FINDINGS", "IMPRESSION"), "IMPRESSION: Clear."),
        ("FINDINGS:\n", ("FINDINGS",), ""),
        ("LUNGS: Clear.\nHEART: Normal.\nBONES: Old.", ("heart",), "HEART: Normal. BONES: Old."),
        ("AP chest compared to ___.  No findings.", ("FINDINGS",), ""),
        ("", ("FINDINGS",), ""),
        # As MIMIC-CXR's own parser has them.
        (" CHEST, TWO VIEWS:  Clear.\n\n CONCLUSION:  Normal.\n", BOTH, "FINDINGS: Clear. IMPRESSION: Normal."),
        (" CHEST, TWO VIEWS:  Clear.\n\n CONCLUSION:  Normal.\n", ("CONCLUSION",), "CONCLUSION: Normal."),
        (" PA AND LATERAL CHEST RADIOGRAPH:  Clear.\n\n IMPRESSION:  Normal.", BOTH,
         "FINDINGS: Clear. IMPRESSION: Normal."),
        (" SINGLE PORTABLE VIEW:  Clear.\n IMPRESSOIN:  Normal.", BOTH, "FINDINGS: Clear. IMPRESSION: Normal."),
        (" CHEST, PA AND LATERAL:\n\n INDICATION:  Cough.\n\n FINDINGS:  Clear.", BOTH, "FINDINGS: Clear."),
        (" CHEST RADIOGRAPH:  ___\n\n FINDINGS:  Clear.", BOTH, "FINDINGS: Clear."),
        (" FINDINGS:  Clear.\n CHEST WALL:  Normal.\n REFERENCE EXAM:  ___", BOTH,
         "FINDINGS: Clear. CHEST WALL: Normal."),
        (" FINDINGS:  Clear.\n PLEASE SEE CT EXAM:  ___", BOTH, "FINDINGS: Clear. PLEASE SEE CT"),
        (" PRELIMINARY IMPRESSION:  Clear.\n PATIENT HISTORY:  Cough.", BOTH, "IMPRESSION: Clear."),
        (" REASON FOR EXAM:  Cough.\n PFI:  Pain.", ("INDICATION", "HISTORY"), "INDICATION: Cough. HISTORY: Pain."),
        (" PORTABLE CHEST\n\n COMPARISON:  None.\n\n Heart is large.  Lines unchanged.\n", BOTH,
         "FINDINGS: Heart is large. Lines unchanged."),
        ("    FINAL REPORT\n AP CHEST, 5:04 A.M.\n \n Clear.\n \n Lines as before.", ("IMPRESSION",),
         "IMPRESSION: Clear. Lines as before."),
        (" AP CHEST\n\n Heart is large.", ("INDICATION",), ""),
        (f" IMPRESSION:  Normal.\n {'_' * 78}\n WET READ: ___ 9:12 PM\n  Early.\n", BOTH, "IMPRESSION: Normal."),
        (" FINDINGS:  One\u2028two\x0cthree\x85IMPRESSION\u2029four.\r\n IMPRESSION:  Normal.", BOTH,
         "FINDINGS: One two three IMPRESSION four. IMPRESSION: Normal."),
    ],
)  # fmt: skip
def test_sections(report: str, wanted: tuple[str, ...], expected: str) -> None:
    """Wanted sections are kept under their headers, whatever the style of these; and doing so twice changes nothing."""
    assert keep_sections(report, wanted) == expected
    assert keep_sections(expected, wanted) == expected


def test_a_report_without_the_sections_is_missing() -> None:
    """It is a missing modality, not an error; with them, what was kept is what was read."""
    text = fitted(REPORT, sections=("IMPRESSION",), max_tokens=200, lower_case=True)
    assert text.read({"txt": b" COMPARISON: None.\n Lungs clear."}) is None
    x = text.read({"txt": REPORT.encode()})
    assert x is not None
    assert text.preview(x).text == IMPRESSION.lower()
    assert torch.equal(again(text, x), x)


@pytest.mark.parametrize(
    "line", ["FINDINGS,", "FINDINGS ", "FINDINGS(", " \t", "FINDINGS AND ", "EXAM.", "CHEST ", "\nCHEST "]
)
def test_hostile_headers_take_linear_time(line: str) -> None:
    """A million characters of almost-headers are searched at once; quadratic time would take hours."""
    assert keep_sections(line * (1_000_000 // len(line)), ("FINDINGS",)) == ""


# The networks and the likelihood.

LATENT_DIM = 3


def tiny_decoder(num_tokens: int = 4, max_tokens: int = 4, **options: float) -> TextDecoder:
    """A decoder of a few words; its weights are spread out, so that its probabilities differ."""
    torch.manual_seed(0)
    decoder = TextDecoder(num_tokens, max_tokens, 16, 2, 2, LATENT_DIM, **{"word_dropout": 0.0, **options}).eval()
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.mul_(1.5)
    return decoder


def all_texts(num_tokens: int, max_tokens: int) -> Tensor:
    """Every x that can be read: 1 to L - 1 words, an end and padding."""
    words = range(END + 1, num_tokens)
    return torch.tensor(
        [
            [*some, END, *[PAD] * (max_tokens - 1 - length)]
            for length in range(1, max_tokens)
            for some in itertools.product(words, repeat=length)
        ]
    )


@pytest.mark.parametrize(("num_tokens", "max_tokens"), [(4, 2), (4, 4), (5, 5), (3, 7)])
def test_probabilities_of_all_texts_sum_to_one(num_tokens: int, max_tokens: int) -> None:
    """log_prob is that of a distribution over exactly the texts that x can hold."""
    decoder, x = tiny_decoder(num_tokens, max_tokens), all_texts(num_tokens, max_tokens)
    with torch.no_grad():
        for z in torch.randn(3, 1, LATENT_DIM):
            log_prob = decoder(z.expand(len(x), -1)).log_prob(x)
            assert abs(float(log_prob.double().exp().sum()) - 1) < 1e-5
            assert log_prob.std() > 0.1


def test_draws_follow_log_prob() -> None:
    """With temperature 1 and top_p 1, texts occur as often as log_prob says (chi-squared test)."""
    decoder, x, num_draws = tiny_decoder(), all_texts(4, 4), 20_000
    with torch.no_grad():
        z = torch.randn(1, LATENT_DIM)
        expected = num_draws * decoder(z.expand(len(x), -1)).log_prob(x).exp()
        drawn = decoder(z.expand(num_draws, -1)).sample(torch.Generator().manual_seed(0))
    observed = (drawn[:, None] == x).all(2).sum(0)
    assert observed.sum() == num_draws  # nothing else is drawn
    # 13 degrees of freedom: above 40 once in 10,000 times.
    assert ((observed - expected).square() / expected).sum() < 40


def greedy(decoder: TextDecoder, z_BD: Tensor) -> Tensor:
    """Greedy decoding that asks log_prob of every possible next word, and keeps nothing."""
    likelihood = decoder(z_BD)
    x = torch.full((len(z_BD), decoder.max_tokens), PAD)
    for position in range(decoder.max_tokens - 1):
        going = ~(x == END).any(1)
        candidates = []
        for token in range(END, decoder.embedding.num_embeddings):
            candidate = x.clone()
            candidate[:, position] = token
            candidates.append(likelihood.log_prob(candidate))
        best = torch.stack(candidates).argmax(0) + END
        x[:, position] = torch.where(going, best, PAD)
    x[:, -1] = torch.where((x == END).any(1), PAD, END)
    return x


def test_mode_is_greedy_decoding() -> None:
    """Cached keys and values give the same words as no cache, in rows of different lengths."""
    decoder, z = tiny_decoder(5, 10), 2 * torch.randn(40, LATENT_DIM)
    with torch.no_grad():
        mode = decoder(z).mode()
        assert torch.equal(mode, greedy(decoder, z))
        assert torch.equal(decoder(z[7:8]).mode(), mode[7:8])
    assert len({int((row != PAD).sum()) for row in mode}) > 1


def test_temperature_and_top_p_narrow_the_draws() -> None:
    """Near temperature 0, or among the likeliest word alone, a draw is the mode; without, it is not."""
    z = torch.randn(30, LATENT_DIM)
    with torch.no_grad():
        mode = tiny_decoder(9, 12)(z).mode()
        for options, same in (({"temperature": 1e-4}, True), ({"top_p": 1e-4}, True), ({}, False)):
            drawn = tiny_decoder(9, 12, **options)(z).sample(torch.Generator().manual_seed(0))
            assert torch.equal(drawn, mode) == same


def test_nucleus_is_the_smallest_likely_set() -> None:
    """The fewest words that make up top_p stay, wherever they stand in the vocabulary."""
    probability = torch.tensor([[0.2, 0.5, 0.05, 0.25], [0.97, 0.01, 0.01, 0.01]])
    expected = {0.4: [[1], [0]], 0.6: [[1, 3], [0]], 0.9: [[0, 1, 3], [0]], 1.0: [[0, 1, 2, 3], [0, 1, 2, 3]]}
    for top_p, kept in expected.items():
        narrowed = nucleus(probability, top_p)
        assert [row.nonzero()[:, 0].tolist() for row in narrowed] == kept
        assert torch.equal(narrowed[narrowed > 0], probability[narrowed > 0])


def test_hidden_words_are_not_seen() -> None:
    """If every word is hidden in training, log_prob is a sum over positions; in eval mode words are visible again."""
    decoder, x, z = tiny_decoder(word_dropout=1.0), all_texts(4, 3), torch.ones(1, LATENT_DIM)
    first, second = x[2:, 0], x[2:, 1]  # the texts of two words: aa, ab, ba, bb
    assert (first + second).tolist() == [4, 5, 5, 6]

    def interaction() -> float:
        with torch.no_grad():
            aa, ab, ba, bb = decoder(z.expand(4, -1)).log_prob(x[2:]).tolist()
        return aa + bb - ab - ba

    assert abs(interaction()) > 0.01
    decoder.train()
    assert abs(interaction()) < 1e-5


def test_training_hides_a_share_of_the_words() -> None:
    """log_prob is random while the decoder trains, follows torch's seed, and is exact in eval mode."""
    decoder, z = tiny_decoder(9, 12, word_dropout=0.5).train(), torch.randn(5, LATENT_DIM)
    with torch.no_grad():
        x = decoder(z).mode()
        values = []
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            values.append(decoder(z).log_prob(x))
        decoder.eval()
        exact = [decoder(z).log_prob(x) for _ in range(2)]
    assert torch.equal(values[0], values[1])
    assert not torch.equal(values[0], values[2])
    assert torch.equal(*exact)


@pytest.mark.parametrize("num_texts", [0, 2])
def test_rows_without_text_are_harmless(num_texts: int) -> None:
    """Rows of padding have log_prob 0 and finite features and gradients, and do not change other rows."""
    torch.manual_seed(0)
    encoder, decoder = TextEncoder(9, 12, 16, 2, 2, 6), TextDecoder(9, 12, 16, 2, 2, 6, word_dropout=0.2)
    x = torch.zeros(5, 12, dtype=torch.int64)
    x[:num_texts, :4] = torch.tensor([5, 3, 7, END])
    decoder.eval()
    log_prob = decoder(encoder(x)).log_prob(x)
    assert (log_prob[num_texts:] == 0).all()
    (log_prob * torch.tensor([1.0] * num_texts + [0.0] * (5 - num_texts))).sum().backward()
    for network in (encoder, decoder):
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None, f"ranks without texts would not touch {name}"
            assert parameter.grad.isfinite().all()
    if num_texts:
        alone = x[:num_texts]
        torch.testing.assert_close(decoder(encoder(alone)).log_prob(alone), log_prob[:num_texts])


def test_padding_does_not_matter() -> None:
    """A text's feature and log_prob are the same next to a longer text, and in a shorter x."""
    torch.manual_seed(0)
    encoder, decoder = TextEncoder(9, 12, 16, 2, 2, 6).eval(), tiny_decoder(9, 12)
    x = torch.full((2, 12), PAD)
    x[0, :3], x[1] = torch.tensor([4, 5, END]), torch.tensor([*[6] * 11, END])
    z = torch.randn(2, LATENT_DIM)
    with torch.no_grad():
        torch.testing.assert_close(encoder(x)[:1], encoder(x[:1, :3]))
        torch.testing.assert_close(decoder(z).log_prob(x)[:1], decoder(z[:1]).log_prob(x[:1, :4]))


def test_padding_that_is_computed_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CUDA device, features, log-likelihoods, texts and all gradients equal those of packed tokens."""

    def passed(*, dense: bool) -> tuple[list[Tensor], list[Tensor]]:
        monkeypatch.setattr(transformer, "computes_padding", lambda _: dense)
        torch.manual_seed(0)
        encoder = TextEncoder(20, 9, 16, 2, 2, 8)
        decoder = TextDecoder(20, 9, 16, 2, 2, 4, word_dropout=0.0)
        x_BL = torch.tensor([[5, 6, 7, END] + 5 * [PAD], 9 * [PAD], [3, 4, 5, 6, 7, 8, 9, 3, END]])
        h_BF, likelihood = encoder(x_BL), decoder(torch.randn(3, 4, generator=torch.Generator().manual_seed(1)))
        log_prob_B = likelihood.log_prob(x_BL)
        (h_BF.square().sum() + log_prob_B.sum()).backward()
        gradients = [p.grad for module in (encoder, decoder) for p in module.parameters() if p.grad is not None]
        return [h_BF, log_prob_B, likelihood.mode()], gradients

    for got, expected in zip(passed(dense=True), passed(dense=False), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_word_order_matters_to_the_encoder() -> None:
    """The same words in another order, or with one repeated, have another feature."""
    torch.manual_seed(0)
    encoder = TextEncoder(9, 8, 16, 2, 2, 6).eval()
    x = torch.tensor([[3, 4, END, PAD], [4, 3, END, PAD], [3, 3, END, PAD], [3, 3, 3, END]])
    with torch.no_grad():
        assert torch.pdist(encoder(x)).min() > 1e-2


def test_class_words_are_learned_in_a_few_steps() -> None:
    """One word or phrase for each class, from a noisy latent of 16 dimensions: all decoded right after 100 steps."""
    words = ("zero", "one", "two", "seven", "pick up with one hand", "pick up with two hands", "throw", "drop trash")
    text = fitted(*words * 9, max_tokens=8, width=64, num_layers=2, vocabulary_size=300)
    x = torch.stack([x for word in words if (x := text.read({"txt": word.encode()})) is not None])
    torch.manual_seed(0)
    z, decoder = torch.randn(len(words), 16), text.decoder(16).train()
    optimiser = torch.optim.AdamW(decoder.parameters(), lr=2e-3)
    for _ in range(100):
        optimiser.zero_grad()
        (-decoder(z + 0.3 * torch.randn_like(z)).log_prob(x).mean() / 8).backward()
        optimiser.step()
    mode = decoder.eval()(z).mode()
    assert [text.preview(row).text for row in mode] == list(words)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"vocabulary_size": 257}, "258"), ({"max_tokens": 7}, "8"), ({"width": 20}, "multiple of 8"),
     ({"heads": 5}, "divisor of width = 128, got 5"), ({"heads": 0}, "at least 1"), ({"word_dropout": 1.5}, "0 to 1"),
     ({"top_p": 0.0}, "above 0"), ({"top_p": 1.1}, "0 to 1"), ({"temperature": 0.0}, "above 0"),
     ({"fields": ()}, "at least one"), ({"max_bytes": 0}, "1024"), ({"sections": ("",)}, r"\[0\]")],
)  # fmt: skip
def test_bad_options_are_refused(options: dict[str, object], message: str) -> None:
    """Options out of range say what was expected."""
    with pytest.raises(ValueError, match=message):
        Text.Options(**options)


# Real reports.


def real_reports(count: int) -> list[str]:
    """Findings and impression of chest X-rays, as a report writes them."""
    if not DATA.is_dir():
        pytest.skip(f"no real data at {DATA}; set SHALA_DATA")
    with (DATA / "iu_xray_reports/indiana_reports.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["findings"] and row["impression"]]
    return [
        f" INDICATION:  {row['indication']}\n\n FINDINGS:  {row['findings']}\n\n IMPRESSION:  {row['impression']}\n"
        for row in rows[:count]
    ]


@pytest.mark.real_data
@pytest.mark.parametrize("max_tokens", [96, 512])
def test_real_reports_come_back(max_tokens: int) -> None:
    """300 reports are read, written and read again as the same tokens; the text is the original or its start."""
    reports = real_reports(300)
    text = Text(Text.Options(sections=("FINDINGS", "IMPRESSION"), max_tokens=max_tokens))
    text.fit({"txt": report.encode()} for report in reports)
    num_cut = 0
    for report in reports:
        x = text.read({"txt": report.encode()})
        assert x is not None
        assert torch.equal(again(text, x), x)
        whole, shown = (
            normalise(keep_sections(report, ("FINDINGS", "IMPRESSION")), lower_case=False),
            text.preview(x).text,
        )
        assert whole.startswith(shown)
        num_cut += whole != shown
    assert 0 < num_cut < 150 if max_tokens == 96 else num_cut == 0


@pytest.mark.real_data
@pytest.mark.parametrize("sections", [(), ("FINDINGS", "IMPRESSION")])
def test_damaged_real_reports(sections: tuple[str, ...]) -> None:
    """Damaged copies of real reports end in tokens, a missing modality or a DataError."""

    class Damaged(TestText):
        options: ClassVar = {"max_tokens": 96, "vocabulary_size": 400, "sections": sections}

        def sample_fields(self, index: int) -> dict[str, bytes]:
            return {"txt": reports[index].encode()}

    reports = real_reports(40)
    Damaged().check_damage([{"txt": report.encode()} for report in reports], count=1000)
