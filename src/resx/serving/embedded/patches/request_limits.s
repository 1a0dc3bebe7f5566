# What request_limits.py adds to tritonserver 2.51, in the zeros behind its code. A test puts these lines through the
# assembler and compares; by hand:
#   as request_limits.s -o limits.o && ld -Ttext=0xaa8c30 -e depth limits.o -o limits && objdump -d -M intel limits
.intel_syntax noprefix

# Places in the server to go on at, and functions of it.
.set parse_value,       0x1cf04a    # rapidjson, GenericReader::ParseValue
.set elements_counted,  0x2f057b    # HTTPAPIServer::ParseJsonTritonIO
.set elements_refused,  0x2f05ef
.set body_taken,        0x99b7b7    # libevhtp, htp__request_parse_body_
.set body_too_long,     0x99b93c
.set header_taken,      0x99bbfe    # libevhtp, htp__request_parse_header_key_
.set header_refused,    0x99bc53
.set error_new,         0x0b5400    # TRITONSERVER_ErrorNew
.set strncasecmp,       0x0b5bd0
.set add_content_type,  0x2de300
.set evhtp_kv_find,     0x99b700
.set evhtp_send_reply,  0x99f410
.set evbuffer_add,      0x9a6c00
.set evthr_read_cmd,    0x9a38d0    # libevhtp: takes the oldest command of a thread and runs it
.set send,              0x0b4240
.set errno_location,    0x0b5de0
.set pthread_self,      0x0b4f20
.set usleep,            0x0b61a0

.globl depth, elements, body, header, dispatch, defer
.text
# Each value of a JSON text comes through here. The reader is a variable of the function that began to parse, so its
# distance from the stack's end is what the nesting has taken: 80 bytes a level.
depth:                              # rdi: the reader; rsi: the stream
    mov rax, rdi
    sub rax, rsp
    cmp rax, 0x10000                # JSON_STACK_BYTES
    ja 1f
    push r15                        # what stood here
    push r14
    push r13
    jmp parse_value
1:  mov dword ptr [rdi+0x30], 16    # the reader's error: kParseErrorTermination
    mov rax, [rsi]
    mov rcx, [rax]
    sub rcx, [rax+8]
    mov [rdi+0x38], rcx             # and where
    ret

# A tensor whose data are JSON is about to get its memory, by its shape alone. No element takes less than a byte of JSON.
elements:                           # rax: bytes of the tensor; [rbp-0x3f8]: its elements; [rbp+0x18]: bytes of the JSON
    mov [rbp-0x3c8], rax            # what stood here
    mov rax, [rbp-0x3f8]
    cmp rax, [rbp+0x18]
    ja 1f
    jmp elements_counted
1:  mov edi, 3                      # TRITONSERVER_ERROR_INVALID_ARG
    lea rsi, [rip+elements_text]
    call error_new
    jmp elements_refused

# A piece of a body has come.
body:                               # rbx: the connection; rbp: bytes of the piece
    mov rdx, [rbx+0x78]             # bytes of the request before it
    add rdx, rbp
    cmp rdx, 0x4000000              # REQUEST_BYTES
    ja 1f
    jmp body_taken
1:  mov rax, [rbx+0x68]             # the request
    mov rdi, [rax+0x30]             # its headers
    lea rsi, [rip+key_text]
    call evhtp_kv_find
    test rax, rax
    je 2f
    jmp body_taken
2:  jmp body_too_long

# The name of a header has come. It counts with what libevhtp keeps for it.
header:                             # rax: the connection; r12: bytes of the name
    lea rcx, [r12+0x80]
    add [rax+0x78], rcx
    cmp qword ptr [rax+0x78], 0x100000      # HEADER_BYTES
    ja 1f
    lea rdi, [r12+1]                # what stood here
    jmp header_taken
1:  mov rbx, rax
    jmp header_refused

# A request is complete, on the port for requests or the one for metrics.
dispatch:                           # rdi: the request; rsi: the server
    push rbx
    push rbp
    sub rsp, 8
    mov rbx, rdi
    mov rbp, rsi
    mov rdi, [rbx+0x30]             # the headers
    lea rsi, [rip+origin_text]
    call evhtp_kv_find
    test rax, rax
    je 1f
    push rax
    push rax
    mov rdi, rax
    lea rsi, [rip+http_text]
    mov edx, 7
    call strncasecmp
    pop rdi
    pop rdi
    test eax, eax
    jne 3f
    add rdi, 7
    call is_here
    test eax, eax
    je 3f
1:  mov rdi, [rbx+0x30]
    lea rsi, [rip+host_text]
    call evhtp_kv_find
    test rax, rax
    je 2f
    mov rdi, rax
    call is_here
    test eax, eax
    je 3f
2:  mov rdi, rbp                    # what stood here: server->Handle(request)
    mov rsi, rbx
    mov rax, [rbp]
    add rsp, 8
    pop rbp
    pop rbx
    jmp [rax+0x10]
3:  mov rdi, [rbx+0x28]             # the answer's body
    lea rsi, [rip+refusal_text]
    mov edx, offset refusal_end - refusal_text
    call evbuffer_add
    mov rdi, rbx
    lea rsi, [rip+json_text]
    call add_content_type
    mov rdi, rbx
    mov esi, 403
    add rsp, 8
    pop rbp
    pop rbx
    jmp evhtp_send_reply

is_here:                            # rdi: NAME or NAME:PORT; eax: whether it is this machine, by a name that no DNS gives
    push rbx
    mov rbx, rdi
    lea rsi, [rip+v4_text]
    mov edx, 9
    call strncasecmp
    test eax, eax
    je 1f
    mov rdi, rbx
    lea rsi, [rip+name_text]
    mov edx, 9
    call strncasecmp
    test eax, eax
    je 1f
    mov rdi, rbx
    lea rsi, [rip+v6_text]
    mov edx, 5
    call strncasecmp
    test eax, eax
    jne 3f
    sub rbx, 4
1:  movzx eax, byte ptr [rbx+9]
    test eax, eax
    je 2f
    cmp eax, 58                     # a colon
    jne 3f
2:  mov eax, 1
    pop rbx
    ret
3:  xor eax, eax
    pop rbx
    ret

elements_text: .asciz "'shape' has more elements than the request has bytes"
key_text:      .asciz "resx-control-key"
origin_text:   .asciz "Origin"
host_text:     .asciz "Host"
http_text:     .asciz "http://"
v4_text:       .asciz "127.0.0.1"
name_text:     .asciz "localhost"
v6_text:       .asciz "[::1]"
json_text:     .asciz "application/json"
refusal_text:  .ascii "{\"error\":\"this server answers programs of this machine: Host and Origin must be 127.0.0.1, localhost or [::1]\"}"
refusal_end:

# evthr_defer: a reply, or a new connection, is handed to an HTTP thread as a command through a socket, which holds 278
# of them. Triton drops one that does not fit. The thread itself runs an older command then; any other waits, 10 s.
defer:                              # rdi: the thread; rsi: what to call; rdx: its argument
    push rbx
    push rbp
    sub rsp, 0x28
    mov rbx, rdi
    mov ebp, 10000
    mov byte ptr [rsp], 0           # not a command to stop
    mov [rsp+1], rdx
    mov [rsp+9], rsi
1:  mov edi, [rbx+4]
    mov rsi, rsp
    mov edx, 17
    xor ecx, ecx
    call send
    test rax, rax
    jg 3f
    call errno_location
    cmp dword ptr [rax], 11         # EAGAIN
    jne 4f
    call pthread_self
    mov rcx, [rbx+0x48]
    cmp rax, [rcx]
    jne 2f
    mov edi, [rbx]
    mov rdx, rbx
    call evthr_read_cmd
    jmp 1b
2:  mov edi, 1000
    call usleep
    dec ebp
    jnz 1b
4:  mov eax, 2                      # EVTHR_RES_RETRY
    jmp 5f
3:  xor eax, eax
5:  add rsp, 0x28
    pop rbp
    pop rbx
    ret
