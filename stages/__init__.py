"""One module per stage of dvc.yaml; run one by hand with `python -m stages.<name>`."""
