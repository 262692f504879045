"""Can a classifier tell a method's answers from those of a model that never knew? 0.5 is ideal: leaks and garbage both show."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_FOLDS = 5


def tell_apart(own: Sequence[str], reference: Sequence[str], groups: Sequence[str]) -> float:
    """Return the AUC of a classifier that tells `own` answers from `reference` answers to the same questions.

    Logistic regression on TF-IDF of words and pairs of words, five folds; answers of one group (a fact) are in one fold, so that no
    answer is judged by its twin. Answers that are the same on both sides give 0.5 whatever else is learned.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import GroupKFold
    from sklearn.pipeline import make_pipeline

    texts = np.array([answer or "(nothing)" for answer in (*own, *reference)], dtype=object)
    labels = np.array([1] * len(own) + [0] * len(reference))
    owners = np.array([*groups, *groups])
    scores = np.zeros(len(texts))
    for train, test in GroupKFold(min(_FOLDS, len(set(groups)))).split(texts, labels, owners):
        words = TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"\S+", sublinear_tf=True)
        model = make_pipeline(words, LogisticRegression(C=10.0, max_iter=1000))
        model.fit(texts[train], labels[train])
        scores[test] = model.decision_function(texts[test])
    return float(roc_auc_score(labels, scores))
