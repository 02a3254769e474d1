// The route as the usual guides write it: Express, the `openai` package, nothing else.
// No limits, no deadlines, no checks. It answers /api/chat to the same requests as Sluice.

import express from "express";
import OpenAI from "openai";

const app = express();
const openai = new OpenAI(); // OPENAI_API_KEY and OPENAI_BASE_URL

app.use(express.json());

app.post("/api/chat", async (req, res) => {
  const { userMessage, stream } = req.body;
  const request = {
    model: "gpt-4o-mini",
    messages: [
      { role: "system", content: "You are a helpful assistant." },
      { role: "user", content: userMessage },
    ],
    max_tokens: 300,
  };
  try {
    if (!stream) {
      const completion = await openai.chat.completions.create(request);
      res.json({ text: completion.choices[0].message.content, usage: completion.usage });
      return;
    }
    const chunks = await openai.chat.completions.create({ ...request, stream: true });
    res.setHeader("Content-Type", "text/event-stream");
    res.setHeader("Cache-Control", "no-cache");
    for await (const chunk of chunks) {
      const text = chunk.choices[0]?.delta?.content;
      if (text) res.write(`data: ${JSON.stringify({ text })}\n\n`);
    }
    res.end("data: [DONE]\n\n");
  } catch (error) {
    console.error(error);
    if (res.headersSent) res.end();
    else res.status(500).json({ error: "Something went wrong" });
  }
});

app.listen(Number(process.env.PORT), "127.0.0.1");
