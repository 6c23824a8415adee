import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from signing_keys import new_key


@pytest.fixture(scope="session")
def key() -> rsa.RSAPrivateKey:
    return new_key()


@pytest.fixture(scope="session")
def other_key() -> rsa.RSAPrivateKey:
    return new_key()
