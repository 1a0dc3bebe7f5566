"""GPU memory, pinned host memory and a stream, through the NVIDIA driver's own library.

TensorRT takes addresses and a stream; who allocates them is its caller's affair. The driver's C interface is enough for
that: it comes with the driver, whatever CUDA is installed, and its functions never change once they are published
(cuda.h; a new form gets a new suffix, such as `_v2`). So nothing is imported here: cuda-bindings would do the same
after an installation of its own, and PyTorch after gigabytes. Memory belongs to the device's primary context, which
TensorRT uses too.
"""

import ctypes
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

Bytes: TypeAlias = "np.ndarray[Any, np.dtype[np.uint8]]"

LIBRARY = "libcuda.so.1"
_NON_BLOCKING = 1
"""CU_STREAM_NON_BLOCKING: not held up by work on the default stream."""
_int, _size, _address, _handle = ctypes.c_int, ctypes.c_size_t, ctypes.c_uint64, ctypes.c_void_p
_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "cuInit": (ctypes.c_uint,),
    "cuDeviceGet": (ctypes.POINTER(_int), _int),
    "cuDevicePrimaryCtxRetain": (ctypes.POINTER(_handle), _int),
    "cuCtxSetCurrent": (_handle,),
    "cuStreamCreate": (ctypes.POINTER(_handle), ctypes.c_uint),
    "cuStreamSynchronize": (_handle,),
    "cuStreamDestroy_v2": (_handle,),
    "cuMemAlloc_v2": (ctypes.POINTER(_address), _size),
    "cuMemFree_v2": (_address,),
    "cuMemAllocHost_v2": (ctypes.POINTER(_handle), _size),
    "cuMemFreeHost": (_handle,),
    "cuMemcpyHtoDAsync_v2": (_address, _handle, _size, _handle),
    "cuMemcpyDtoHAsync_v2": (_handle, _address, _size, _handle),
    "cuGetErrorName": (_int, ctypes.POINTER(ctypes.c_char_p)),
}


class CudaError(RuntimeError):
    """The driver refused something."""


class Driver:
    """The functions that are used, each raising what the driver says."""

    def __init__(self, library: Any) -> None:
        """Take a loaded library, or whatever has its functions."""
        self._library = library

    def call(self, name: str, *arguments: Any) -> None:
        """Call a function of the library.

        Raises:
            CudaError: it did not succeed; the message has its name and the error's.
        """
        if code := getattr(self._library, name)(*arguments):
            text = ctypes.c_char_p()
            self._library.cuGetErrorName(code, ctypes.byref(text))
            raise CudaError(f"{name}: {(text.value or b'error %d' % code).decode()}")


def load_driver(load: Callable[[str], Any] = ctypes.CDLL) -> Driver:
    """Return the driver of this machine.

    Raises:
        CudaError: there is none, or it finds no GPU.
    """
    try:
        library = load(LIBRARY)
    except OSError as error:
        raise CudaError(f"no NVIDIA driver is installed ({error})") from error
    for name, arguments in _SIGNATURES.items():
        function = getattr(library, name)
        function.argtypes, function.restype = arguments, _int
    driver = Driver(library)
    driver.call("cuInit", 0)
    return driver


class Device:
    """One GPU and one stream; its primary context goes with the process, as engines may outlive this."""

    def __init__(self, driver: Driver, number: int) -> None:
        """Take the GPU of that number, as CUDA_VISIBLE_DEVICES leaves them.

        Raises:
            CudaError: there is none, or it has no memory for a context.
        """
        self.driver = driver
        ordinal, context, stream = _int(), _handle(), _handle()
        driver.call("cuDeviceGet", ctypes.byref(ordinal), number)
        driver.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), ordinal)
        self._context = context
        self.use()
        driver.call("cuStreamCreate", ctypes.byref(stream), _NON_BLOCKING)
        self._stream = stream

    @property
    def stream(self) -> int:
        """The stream's handle, for TensorRT."""
        return self._stream.value or 0

    def use(self) -> None:
        """Make this the calling thread's GPU."""
        self.driver.call("cuCtxSetCurrent", self._context)

    def copy_in(self, target: int, source: int, num_bytes: int) -> None:
        """Queue a copy from pinned memory to the GPU's."""
        self.driver.call("cuMemcpyHtoDAsync_v2", target, source, num_bytes, self._stream)

    def copy_out(self, target: int, source: int, num_bytes: int) -> None:
        """Queue a copy from the GPU's memory to pinned memory."""
        self.driver.call("cuMemcpyDtoHAsync_v2", target, source, num_bytes, self._stream)

    def wait(self) -> None:
        """Wait for all that was queued; what failed meanwhile is raised here."""
        self.driver.call("cuStreamSynchronize", self._stream)

    def close(self) -> None:
        """Give the stream back."""
        self.driver.call("cuStreamDestroy_v2", self._stream)


class GpuBuffer:
    """Memory of the GPU that grows to the largest size that was wanted."""

    def __init__(self, device: Device) -> None:
        """Begin with none."""
        self._device, self._size, self.address = device, 0, 0

    def require(self, num_bytes: int) -> int:
        """Return the address of so many bytes; what was in them before is lost where they grow.

        Raises:
            CudaError: the GPU has no memory for them. The buffer then has none, and is asked anew the next time.
        """
        if num_bytes > self._size:
            self.free()
            found = _address()
            self._device.driver.call("cuMemAlloc_v2", ctypes.byref(found), num_bytes)
            self.address, self._size = found.value, num_bytes
        return self.address

    def free(self) -> None:
        """Give the memory back."""
        if self._size:
            self._size = 0
            self._device.driver.call("cuMemFree_v2", self.address)


class PinnedBuffer:
    """Host memory that the GPU reads and writes by itself; grows as `GpuBuffer` does."""

    def __init__(self, device: Device) -> None:
        """Begin with none."""
        self._device, self._found = device, _handle()
        self._bytes: Bytes = np.empty(0, np.uint8)

    @property
    def address(self) -> int:
        """Where it begins."""
        return self._found.value or 0

    def require(self, num_bytes: int) -> Bytes:
        """Return so many bytes of it; arrays over the earlier ones must not be used where they grow.

        Raises:
            CudaError: so much memory cannot be pinned.
        """
        if num_bytes > len(self._bytes):
            self.free()
            self._device.driver.call("cuMemAllocHost_v2", ctypes.byref(self._found), num_bytes)
            self._bytes = np.ctypeslib.as_array((ctypes.c_uint8 * num_bytes).from_address(self.address))
        return self._bytes[:num_bytes]

    def free(self) -> None:
        """Give the memory back."""
        if len(self._bytes):
            self._bytes = np.empty(0, np.uint8)
            self._device.driver.call("cuMemFreeHost", self._found)
