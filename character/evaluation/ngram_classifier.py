"""A second, independent classifier, which counts words and letters and needs no language model.

Tf-idf of n-grams of words and of characters, and a logistic regression. It is saved as numbers and terms, without pickle.
"""

import json
from pathlib import Path

from character.core import records
from character.core.errors import UserError
from character.dataset.segmentation import index_terms

NGRAM_CARD, NGRAM_WEIGHTS = "ngrams.json", "ngrams.npz"
NGRAM_KINDS = {  # the lengths of n-grams, and in how many texts one must occur
    "word": {"ngram_range": (1, 2), "min_df": 2},
    "char_wb": {"ngram_range": (2, 5), "min_df": 3},  # within words
}


def build_ngram_classifier(features: int, c: float):
    """Return an untrained sklearn pipeline from texts to classes. All classes weigh the same, however many texts they have.

    Args:
        features: how many n-grams of each kind are kept.
        c: the inverse of the regression's L2 penalty.
    """
    from sklearn.linear_model import LogisticRegression

    vectorizers = {kind: _tfidf_vectorizer(kind, max_features=features, **how) for kind, how in NGRAM_KINDS.items()}
    return _ngram_pipeline(vectorizers, LogisticRegression(C=c, max_iter=1000, class_weight="balanced"))


def save_ngram_classifier(pipeline, folder: Path) -> None:
    """Write a trained pipeline to `folder`."""
    import numpy

    vectorizers, regression = dict(pipeline["features"].transformer_list), pipeline["regression"]
    card = {
        "classes": regression.classes_.tolist(),
        "terms": {kind: vectorizer.get_feature_names_out().tolist() for kind, vectorizer in vectorizers.items()},
    }
    weights = {"weight": regression.coef_, "bias": regression.intercept_}
    with records.replace_folder(folder) as draft:
        (draft / NGRAM_CARD).write_text(json.dumps(card, ensure_ascii=False) + "\n", encoding="utf-8")
        numpy.savez(draft / NGRAM_WEIGHTS, **weights, **{kind: vectorizer.idf_ for kind, vectorizer in vectorizers.items()})


def load_ngram_classifier(folder: Path):
    """Load the pipeline saved in `folder`; its predictions are those of the pipeline that was saved.

    Raises:
        UserError: `folder` has no n-gram classifier.
    """
    import numpy
    from sklearn.linear_model import LogisticRegression

    if not (folder / NGRAM_CARD).is_file() or not (folder / NGRAM_WEIGHTS).is_file():
        raise UserError(f"{folder}: no n-gram classifier here; run `dvc repro crosscheck`, or `dvc pull` to fetch it.")
    card = json.loads((folder / NGRAM_CARD).read_text(encoding="utf-8"))
    numbers = numpy.load(folder / NGRAM_WEIGHTS, allow_pickle=False)
    regression = LogisticRegression()
    regression.classes_ = numpy.array(card["classes"])
    regression.coef_, regression.intercept_ = numbers["weight"], numbers["bias"]
    vectorizers = {kind: _tfidf_vectorizer(kind, vocabulary=terms) for kind, terms in card["terms"].items()}
    for kind, vectorizer in vectorizers.items():
        vectorizer.idf_ = numbers[kind]
    return _ngram_pipeline(vectorizers, regression)


def _tfidf_vectorizer(kind: str, **how):
    from sklearn.feature_extraction.text import TfidfVectorizer

    how = {"ngram_range": NGRAM_KINDS[kind]["ngram_range"]} | how
    if kind == "word":
        how |= {"tokenizer": index_terms, "token_pattern": None}
    return TfidfVectorizer(analyzer=kind, sublinear_tf=True, **how)


def _ngram_pipeline(vectorizers: dict, regression):
    from sklearn.pipeline import FeatureUnion, Pipeline

    return Pipeline([("features", FeatureUnion(list(vectorizers.items()))), ("regression", regression)])
