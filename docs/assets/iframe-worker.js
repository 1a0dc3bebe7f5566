// Browsers start no worker from a file, so a page that was opened from a disk runs the search in a hidden frame.
// Written for resx's documentation; what it stands in for is the same-named package, which would come from a CDN.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      const frame = document.createElement("iframe")
      frame.hidden = true
      document.body.appendChild(frame)
      const inside = frame.contentWindow
      this.ready = new Promise((resolve, reject) => {
        // The frame's scripts answer by postMessage, and load others by importScripts, as a worker's do.
        inside.postMessage = (data) => {
          const event = new MessageEvent("message", { data })
          this.dispatchEvent(event)
          if (this.onmessage) this.onmessage(event)
        }
        inside.importScripts = (...urls) => urls.reduce((before, one) => before.then(() => add(one)), Promise.resolve())
        const add = (source) => new Promise((loaded, failed) => {
          const script = frame.contentDocument.createElement("script")
          script.src = source
          script.onload = loaded
          script.onerror = failed
          frame.contentDocument.head.appendChild(script)
        })
        add(url).then(resolve, reject)
      })
      this.tell = (data) => inside.dispatchEvent(new MessageEvent("message", { data }))
    }
    postMessage(data) { this.ready.then(() => this.tell(data)) }
    terminate() {}
  }
}
