/** The badge that says how a socket is: in words, with a shape and a colour to match. */

const WORDS = {
  open: "connected",
  connecting: "connecting",
  closed: "disconnected",
};

export function showStatus(badge, socket) {
  let timer = 0;

  const draw = () => {
    clearTimeout(timer);
    badge.dataset.state = socket.state;
    badge.textContent = words(socket);
    if (socket.state === "waiting") timer = setTimeout(draw, 1000);
  };
  socket.addEventListener("state", draw);
  draw();
}

function words(socket) {
  if (socket.state !== "waiting") return WORDS[socket.state];
  const seconds = Math.max(1, Math.ceil((socket.retryAt - Date.now()) / 1000));
  return `retry in ${seconds} s`;
}
