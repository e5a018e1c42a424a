"""A scikit-learn model behind LitServe, as its documentation has it: `python peer_litserve.py PORT`, MODEL a file."""

import os
import sys
from typing import Any

import joblib
import litserve


class Iris(litserve.LitAPI):
    """What is asked and answered."""

    def setup(self, device: str) -> None:  # noqa: ARG002 - LitServe gives it
        """Load the model, in each worker."""
        self.model = joblib.load(os.environ["MODEL"])

    def decode_request(self, request: dict[str, Any]) -> list[float]:
        """Take the row."""
        return list(request["features"])

    def predict(self, row: list[float]) -> int:
        """Answer one row."""
        return int(self.model.predict([row])[0])

    def encode_response(self, prediction: int) -> dict[str, int]:
        """Give the answer."""
        return {"prediction": prediction}


if __name__ == "__main__":
    server = litserve.LitServer(Iris(), accelerator="cpu", workers_per_device=2)
    server.run(
        host="127.0.0.1", port=int(sys.argv[1]), num_api_servers=1, generate_client_file=False, log_level="error"
    )
