"""Tests the description of the service: it is valid, complete, and answers are as it says."""

from __future__ import annotations

import re

import httpx
import pytest

from segnext.serve import create_app, description
from segnext.serve.errors import STATUSES
from tests.serve.conftest import encoded, running


@pytest.fixture(scope="module")
def served(predictor):
    with running({"small": predictor}, token="token") as service:
        yield service


@pytest.fixture(scope="module")
def document(served) -> dict:
    return served.get("/openapi.json").json()


def test_it_is_valid(document):
    validator = pytest.importorskip(
        "openapi_spec_validator", reason="openapi-spec-validator is not installed"
    )
    validator.validate(document)


def test_every_endpoint_is_there(document):
    assert set(document["paths"]) == {
        *("/v1/models", "/v1/segment", "/v1/segment-batch", "/livez", "/readyz", "/metrics"),
    }
    for operations in document["paths"].values():
        (operation,) = operations.values()
        assert operation["description"] and operation["tags"]
        assert operation["responses"]["200"]["content"]


def test_every_error_has_an_example_at_its_status(document):
    seen = set()
    for operations in document["paths"].values():
        for operation in operations.values():
            for status, answer in operation["responses"].items():
                for code, example in (
                    answer["content"].get("application/json", {}).get("examples", {}).items()
                ):
                    assert STATUSES[code] == int(status)
                    assert example["value"]["error"]["code"] == code
                    seen.add(code)
    # These are no endpoint's, or nobody reads them.
    assert set(STATUSES) - seen == {"not_found", "method_not_allowed", "client_gone"}


@pytest.mark.parametrize("form", ["runs", "rle", "polygons", "none"])
def test_answers_are_as_described(served, photograph, form):
    headers = {"authorization": "Bearer token"}
    answer = served.post(encoded(photograph), f"/v1/segment?masks={form}", headers=headers).json()
    description.Segmentation.model_validate(answer)
    files = [("images", ("a.png", encoded(photograph))), ("images", ("b.png", b"none"))]
    url = f"{served.url}/v1/segment-batch?masks={form}"
    results = httpx.post(url, files=files, headers=headers).json()
    description.Segmentations.model_validate(results)
    description.Models.model_validate(served.get("/v1/models", headers=headers).json())


def test_examples_are_as_described(document):
    for path, model in (("/v1/models", description.Models), ("/v1/segment", description.Segmentation)):
        (operation,) = document["paths"][path].values()
        model.model_validate(operation["responses"]["200"]["content"]["application/json"]["example"])


def test_the_token_is_described_where_there_is_one(document, predictor):
    assert document["paths"]["/v1/segment"]["post"]["security"] == [{"token": []}]
    assert "security" not in document["paths"]["/livez"]["get"]
    without = create_app({"small": predictor}).openapi()
    assert "security" not in without["paths"]["/v1/segment"]["post"]


def test_the_page_of_the_interface_has_all_of_it_and_nothing_from_elsewhere(served, document):
    response = served.get("/docs")
    text = response.text
    for path in document["paths"]:
        assert f" {path}</b>" in text
    assert not re.search(r"<script|\b(?:src|href)=[\"'](?!/)|url\(|@import", text)
    assert response.headers["content-security-policy"].startswith("default-src 'none'; style-src 'sha256-")


@pytest.mark.parametrize(
    ("models", "options", "says"),
    [
        ({}, {}, "models must hold at least one"),
        (["a/b"], {}, r"a model's name must be of letters, digits and \._- only, got 'a/b'"),
        (["a"], {"token": "  "}, "the token must not be empty"),
    ],
)
def test_what_cannot_be_served(predictor, models, options, says):
    with pytest.raises(ValueError, match=says):
        create_app(dict.fromkeys(models, predictor), **options)
