"""Let vLLM's V2 model runner run on a CPU: Triton's interpreter under a made-up "cpu" backend. Tests only."""

import os

os.environ["TRITON_INTERPRET"] = "1"


def install() -> None:
    import torch
    from triton.backends import Backend, backends
    from triton.backends.compiler import GPUTarget
    from triton.backends.driver import DriverBase
    from triton.runtime.driver import driver

    class InterpreterDriver(DriverBase):
        @classmethod
        def is_active(cls) -> bool:
            return True

        def map_python_to_cpp_type(self, ty: str) -> str:
            return ty

        def get_current_target(self) -> GPUTarget:
            return GPUTarget("cpu", 0, 0)

        def get_active_torch_device(self) -> torch.device:
            return torch.device("cpu")

        def get_benchmarker(self):  # type: ignore[no-untyped-def]
            raise NotImplementedError

        def get_current_device(self) -> int:
            return 0

        def get_current_stream(self, device: int = 0) -> int:
            return 0

    first = next(iter(backends.values()))
    backends["cpu"] = Backend(first.compiler, InterpreterDriver)
    driver.set_active(InterpreterDriver())


install()
