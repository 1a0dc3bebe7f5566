# What idle_instances.py adds to the server's library, in the zeros behind its code. A test puts these lines through the
# assembler and compares; by hand:
#   as idle_instances.s -o idle.o && ld -Ttext=0xe7ac80 -e enqueue idle.o -o idle && objdump -d -M intel idle
.intel_syntax noprefix

# Places in DynamicBatchScheduler::Enqueue to go on at, and functions of the library.
.set direct,                    0x1cbcf2    # as for a model without dynamic batching
.set batched,                   0x1cc428    # takes the lock, queues the request, wakes the batcher
.set payload_slot_available,    0x2d7830    # RateLimiter::PayloadSlotAvailable

.globl enqueue
.text
# A request has come, and its model batches.
enqueue:                            # rbp: the scheduler
    cmp qword ptr [rbp+0x1f8], 0    # pending_batch_delay_ns_: a batch is to wait for more requests
    jne 1f
    cmp qword ptr [rbp+0x208], 0    # queued_batch_size_: those that came before go first
    jne 1f
    mov rsi, [rbp+8]                # model_
    mov rdx, [rbp+0x10]             # model_instance_: null where all instances have one batcher
    mov rax, [rsi+0x500]            # its server
    mov rdi, [rax+0x2a0]            # and the rate limiter
    xor ecx, ecx                    # no fetching ahead: is an instance waiting?
    mov r8d, 1                      # without waiting for one
    call payload_slot_available
    test al, al
    je 1f
    jmp direct
1:  jmp batched
