"""int8: calibrated, quantized, and in fp32 where it must be."""
