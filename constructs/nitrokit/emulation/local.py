"""The local AWS put together: the cloud (moto and helpers), emulated Nitro hardware under its instances, and the trust of both."""

from __future__ import annotations
