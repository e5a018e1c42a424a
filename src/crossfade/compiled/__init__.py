"""Compiled models: a trained pipeline in the fastest form that answers exactly like it. See docs/compiled-models.md.

::

    compile_model(model, training)                         load_compiled(folder)
      tabulate.py   what the pipeline's steps make of        model.py        the loaded model: answers rows
                    each value of each feature                 encoding.py   row of features -> numbers
      formulas.py   linear, Bayes, discriminants ─┐            one of the evaluators, numbers -> class:
      ensembles.py  trees, forests, boosting ─────┤              additive.py   sums of terms    (tier plain)
      graphs.py     ONNX bytes, any estimator ────┘              quadratic.py  discriminants    (tier plain)
      hardrows.py   rows on which a copy would err               trees.py      walks few trees  (tier plain)
      parity.py     same labels, same probabilities?             onnxmodel.py  many trees, ONNX (tier onnx)
      compiler.py   the first tier that passes                   estimator.py  scikit-learn     (tier sklearn)
                                                               links.py      scores -> label and probability

The left column runs where models are trained. The right one runs in the router and imports neither pandas nor PyCaret
nor MLflow, and scikit-learn in tier `sklearn` only.
"""
