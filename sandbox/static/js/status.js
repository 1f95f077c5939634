/** The badge that shows the state of a socket: in words, with a shape and a colour. */

const WORDS = {
  open: "connected",
  connecting: "connecting",
  closed: "disconnected",
};

export function showStatus(badge, socket) {
  let retryAt = 0;
  let timer = 0;

  const draw = () => {
    clearTimeout(timer);
    badge.dataset.state = socket.state;
    badge.textContent = WORDS[socket.state] ?? secondsUntil(retryAt);
    if (socket.state === "waiting") timer = setTimeout(draw, 1000);
  };
  socket.on("state", ({ pause = 0 }) => {
    retryAt = performance.now() + pause;
    draw();
  });
  draw();
}

function secondsUntil(time) {
  const seconds = Math.max(1, Math.ceil((time - performance.now()) / 1000));
  return `retry in ${seconds} s`;
}
