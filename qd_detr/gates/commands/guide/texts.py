"""The guide's texts in English and Korean."""

# ruff: noqa: E501 - a sentence stands on one line, so that the two languages can be held side by side

from __future__ import annotations

EN = {
    "welcome": "Gate analysis of a trained model, step by step. When, where and how much does your model listen to the audio?",
    "keys": "At every question: Enter takes the suggestion in [brackets], b goes back, q quits. Ctrl-C and Ctrl-D quit too.",
    "keys.paths": "Paths can be completed with Tab.",
    "quit": "Goodbye. Nothing is lost: the commands shown above do the same.",
    "quit.early": "Goodbye.",
    "first": "This is the first question; there is nothing to go back to. q quits.",
    "not_a_number": "{answer} is neither a number from 1 to {count} nor a path that is there.",
    "no_such_path": "There is nothing at {answer}.",
    "looking": "Looking for checkpoints and annotation files below {folder} ...",
    "looked_short": "(Stopped after {folders} folders, so there may be more. Any path can be typed.)",
    "models.found": "1. Which checkpoint? Found here:",
    "models.none": "1. Which checkpoint? None was found here (.ckpt or .pth).",
    "models.ask": "Number or path of a checkpoint",
    "models.beside": "opt.json beside it",
    "models.not_beside": "no opt.json",
    "models.unusable": "This cannot be analysed: {reason}",
    "about.title": "What this is:",
    "about.gating": "{gating} gating in {layers} fusion layers (stated by: {origin}). {meaning}",
    "about.gating.global": "A global gate is one number per layer for the whole video: how much is let in does not change over time.",
    "about.gating.clipwise": "A clipwise gate is one number per layer for every clip of {clip:g} s: it can open and close over time.",
    "about.gating.elementwise": "An elementwise gate is one number per layer, clip of {clip:g} s and feature channel ({hidden_dim} of them).",
    "about.sizes": "Sizes, read from the weights: hidden size {hidden_dim}, {enc} encoder and {dec} decoder layers, {slots} slots; inputs of {video} video, {audio} audio and {text} text features.",
    "about.heads": "Not visible in the weights: {fusion_heads} heads in the fusion ({fusion_origin}), {heads} in the transformer ({origin}).",
    "about.epoch": "Saved after epoch {epoch}.",
    "about.disagreement": "Note: the sources of options disagree on {what}.",
    "about.open": "The weights fit {count} different models, and no options say which: {names}. Nothing will be guessed. Give the training run's opt.json; the test then shows whether it is right.",
    "about.open_number": "No options state {names}, and no weight shows it. Nothing will be guessed. Give the training run's opt.json; the test then shows whether it is right.",
    "about.own": "Written by this project's own trainer.",
    "origin.flag": "flag",
    "origin.weights": "the weights",
    "origin.config_path": "the options file you gave",
    "origin.checkpoint": "the options in the checkpoint",
    "origin.opt.json": "opt.json",
    "origin.family": "the family of the model",
    "origin.default": "legacy default",
    "config.ask": "Path of the options file (opt.json); Enter goes on without [none]",
    "config.unusable": "This options file cannot be used: {reason}",
    "data.found": "2. Which queries? Annotation files found here:",
    "data.none": "2. Which queries? No annotation file was found here (.jsonl or .json with qid, query, vid).",
    "data.ask": "Number or path of an annotation file",
    "data.unusable": "These cannot be used: {reason}",
    "data.about": "{queries} queries on {videos} videos; {labelled} have labels, so metrics can be computed for them.",
    "root.needed": "The feature folders that the options name were not found: {reason}",
    "root.ask": "Folder that holds the feature folders",
    "root.about": "Features: video {video}; text {text}; audio {audio}",
    "test.about": "3. The test: is the checkpoint usable, and is the model loaded from it unchanged? It compares every tensor, runs the model, and compares with predictions saved beside the checkpoint.",
    "test.ask": "Run the test now? y or n [y]",
    "test.passed": "The test passed: the checkpoint is usable, and the loaded model is exact.",
    "test.failed": "The test did not pass; the lines marked FAIL above say why. An analysis may be refused, or be of another model than yours.",
    "test.refused": "The test could not be made; the message above says why.",
    "samples.ask": "4. The analysis: how many queries? A number, or all [{suggested}]",
    "samples.wrong": "{answer} is not a number from 1 to {count}, nor all.",
    "extras.about": "5. What shall be run beside the model as it is? Gates off and the audio share are by default: they answer whether the audio helps.",
    "extras.plain": "that, and no more",
    "extras.audio": "the audio taken out, averaged, exchanged and shifted as well (--audio): four more passes over the queries",
    "extras.ablate": "each gate off, scaled and with its sign flipped as well (--ablate): tens of passes, which share what they can",
    "extras.timeline": "the timeline as well (--timeline): in which seconds the audio made the prediction; about 180 passes",
    "extras.none": "nothing of it (--no_effects): the gates alone, the fastest",
    "extras.ask": "Numbers, with spaces between them [1]",
    "extras.wrong": "Please answer with numbers from 1 to {count}; the last one goes with no other.",
    "output.ask": "Folder for the results [{suggested}]",
    "output.unusable": "{reason}",
    "analysis.ask": "Run the analysis now? y or n [y]",
    "analysis.passed": "The analysis is done. Begin with {report}",
    "analysis.failed": "The analysis did not finish; the message above says why.",
    "analysis.reading": "Reading it: a gate near 0 means the branch is ignored, a large magnitude that it is used. The sign alone says nothing. How much audio enters is the injection of the attention gate.",
    "yes_or_no": "Please answer y or n.",
    "command": "The same, as a command:",
    "interrupted": "Interrupted.",
    "done": "That is all. Run the guide again for another checkpoint, or use the commands above.",
    "plain": """GATE ANALYSIS: THE GUIDE
(This is the text; in a terminal the guide asks and runs.)

A trained QD-DETR checkpoint with AVIGATE fusion goes in; out comes when, where and how much it listens to the audio.

1. Test the checkpoint: is it usable, and is the loaded model unchanged?
     python test_legacy_model.py --model_path MODEL.ckpt --data_path DATA.jsonl
   MODEL.ckpt is what training saved (.ckpt or .pth); its options are in it or in opt.json beside it.
   DATA.jsonl are annotations in QVHighlights form. Feature folders beside it are found by their names;
   name others with --feature_root or --v_feat_dirs, --t_feat_dir, --a_feat_dir.

2. Analyse it:
     python run_gate_analysis.py --legacy_model --model_path MODEL.ckpt --data_path DATA.jsonl --max_samples 50
   Begin with gate_analysis_results/ANALYSIS_REPORT.md.

3. Without a model: check that everything works here.
     python test_gate_analysis.py --quick

Gating types: global (one gate per video), clipwise (one per clip), elementwise (one per clip and channel).
Leave --gating_type out: a model runs as it was trained.

A gate near 0 means the branch is ignored, a large magnitude that it is used. The sign alone says nothing.

한국어: python legacy_model_guide.py --lang ko
""",
}

KO = {
    "welcome": "훈련된 모델의 gate를 차례대로 분석합니다. 모델이 언제, 어디서, 얼마나 오디오를 듣고 있을까요?",
    "keys": "질문마다: Enter는 [괄호] 안의 제안을 받아들이고, b는 뒤로, q는 끝냅니다. Ctrl-C와 Ctrl-D로도 끝낼 수 있습니다.",
    "keys.paths": "경로는 Tab으로 완성할 수 있습니다.",
    "quit": "안녕히 가세요. 위에 보인 명령으로 같은 일을 할 수 있습니다.",
    "quit.early": "안녕히 가세요.",
    "first": "첫 질문이라 더 뒤로 갈 수 없습니다. q를 누르면 끝납니다.",
    "not_a_number": "{answer}은(는) 1부터 {count}까지의 번호도, 있는 경로도 아닙니다.",
    "no_such_path": "{answer}에 아무것도 없습니다.",
    "looking": "{folder} 아래에서 체크포인트와 주석 파일을 찾고 있습니다 ...",
    "looked_short": "(폴더 {folders}개까지만 찾았으니 더 있을 수 있습니다. 경로를 직접 입력해도 됩니다.)",
    "models.found": "1. 어떤 체크포인트인가요? 여기서 찾은 것:",
    "models.none": "1. 어떤 체크포인트인가요? 여기서는 찾지 못했습니다(.ckpt 또는 .pth).",
    "models.ask": "체크포인트의 번호나 경로",
    "models.beside": "opt.json 있음",
    "models.not_beside": "opt.json 없음",
    "models.unusable": "이 파일은 분석할 수 없습니다: {reason}",
    "about.title": "이 파일은:",
    "about.gating": "fusion 레이어 {layers}개, {gating} gating(근거: {origin}). {meaning}",
    "about.gating.global": "global gate는 비디오 전체에 대해 레이어마다 숫자 하나입니다. 들이는 양이 시간에 따라 변하지 않습니다.",
    "about.gating.clipwise": "clipwise gate는 {clip:g}초 클립마다 레이어별로 숫자 하나입니다. 시간에 따라 열리고 닫힐 수 있습니다.",
    "about.gating.elementwise": "elementwise gate는 레이어, {clip:g}초 클립, 특성 채널({hidden_dim}개)마다 숫자 하나입니다.",
    "about.sizes": "가중치에서 읽은 크기: hidden size {hidden_dim}, encoder 레이어 {enc}개, decoder 레이어 {dec}개, 슬롯 {slots}개. 입력 특성은 비디오 {video}, 오디오 {audio}, 텍스트 {text}차원.",
    "about.heads": "가중치에 드러나지 않는 것: fusion의 헤드 {fusion_heads}개({fusion_origin}), transformer의 헤드 {heads}개({origin}).",
    "about.epoch": "에포크 {epoch} 뒤에 저장되었습니다.",
    "about.disagreement": "참고: 옵션 출처끼리 다릅니다 - {what}.",
    "about.open": "이 가중치에 들어맞는 모델이 {count}가지인데 어느 것인지 알려 주는 옵션이 없습니다: {names}. 추측하지 않습니다. 훈련할 때의 opt.json을 주면 테스트가 맞는지 보여 줍니다.",
    "about.open_number": "{names} 옵션이 어디에도 적혀 있지 않고 가중치에서도 알 수 없습니다. 추측하지 않습니다. 훈련할 때의 opt.json을 주면 테스트가 맞는지 보여 줍니다.",
    "about.own": "이 프로젝트의 훈련 프로그램이 저장한 파일입니다.",
    "origin.flag": "플래그",
    "origin.weights": "가중치",
    "origin.config_path": "지정한 옵션 파일",
    "origin.checkpoint": "체크포인트 안의 옵션",
    "origin.opt.json": "opt.json",
    "origin.family": "모델의 계열",
    "origin.default": "레거시 기본값",
    "config.ask": "옵션 파일(opt.json)의 경로, Enter는 없이 계속 [없음]",
    "config.unusable": "이 옵션 파일은 쓸 수 없습니다: {reason}",
    "data.found": "2. 어떤 쿼리로 볼까요? 여기서 찾은 주석 파일:",
    "data.none": "2. 어떤 쿼리로 볼까요? 주석 파일(qid, query, vid가 있는 .jsonl 또는 .json)을 찾지 못했습니다.",
    "data.ask": "주석 파일의 번호나 경로",
    "data.unusable": "이 데이터는 쓸 수 없습니다: {reason}",
    "data.about": "비디오 {videos}개에 대한 쿼리 {queries}개. 그중 {labelled}개에 라벨이 있어 지표를 계산할 수 있습니다.",
    "root.needed": "옵션에 적힌 특성 폴더를 찾지 못했습니다: {reason}",
    "root.ask": "특성 폴더들이 들어 있는 폴더",
    "root.about": "특성: 비디오 {video}; 텍스트 {text}; 오디오 {audio}",
    "test.about": "3. 테스트: 체크포인트를 쓸 수 있는지, 불러온 모델이 그대로인지 봅니다. 텐서를 모두 비교하고, 모델을 실행하고, 체크포인트 옆에 저장된 예측과 비교합니다.",
    "test.ask": "지금 테스트할까요? y 또는 n [y]",
    "test.passed": "테스트를 통과했습니다. 체크포인트를 쓸 수 있고, 불러온 모델이 정확합니다.",
    "test.failed": "테스트를 통과하지 못했습니다. 위에서 '실패'라고 표시된 줄에 이유가 있습니다. 분석이 거절되거나, 분석된 모델이 여러분의 모델이 아닐 수 있습니다.",
    "test.refused": "테스트를 하지 못했습니다. 위의 메시지에 이유가 있습니다.",
    "samples.ask": "4. 분석: 쿼리를 몇 개 볼까요? 숫자 또는 all(전부) [{suggested}]",
    "samples.wrong": "{answer}은(는) 1부터 {count}까지의 숫자도 all도 아닙니다.",
    "extras.about": "5. 모델 그대로의 실행 외에 무엇을 더 볼까요? gate를 끈 실행과 오디오 몫은 기본으로 실행합니다. 오디오가 도움이 되는지 답해 주기 때문입니다.",
    "extras.plain": "기본만",
    "extras.audio": "오디오를 빼거나, 평균 내거나, 바꾸거나, 밀어서도 실행(--audio): 쿼리 전체를 네 번 더 실행",
    "extras.ablate": "gate마다 끄거나, 크기를 바꾸거나, 부호를 뒤집어서도 실행(--ablate): 수십 번 실행하되 공통 부분은 한 번만 계산",
    "extras.timeline": "타임라인도(--timeline): 몇 초의 오디오가 예측을 만들었는지, 약 180번 실행",
    "extras.none": "모두 생략(--no_effects): gate만 보며 가장 빠름",
    "extras.ask": "번호(여러 개는 띄어서) [1]",
    "extras.wrong": "1부터 {count}까지의 번호로 답해 주세요. 마지막 번호는 다른 번호와 함께 쓸 수 없습니다.",
    "output.ask": "결과를 둘 폴더 [{suggested}]",
    "output.unusable": "{reason}",
    "analysis.ask": "지금 분석할까요? y 또는 n [y]",
    "analysis.passed": "분석이 끝났습니다. {report}부터 보세요",
    "analysis.failed": "분석을 마치지 못했습니다. 위의 메시지에 이유가 있습니다.",
    "analysis.reading": "읽는 법: gate가 0에 가까우면 그 가지를 무시하고, 크기가 크면 사용하는 것입니다. 부호만으로는 아무것도 알 수 없습니다. 오디오가 얼마나 들어오는지는 attention gate의 injection이 말해 줍니다.",
    "yes_or_no": "y 또는 n으로 답해 주세요.",
    "command": "같은 일을 하는 명령:",
    "interrupted": "중단했습니다.",
    "done": "끝났습니다. 다른 체크포인트를 보려면 가이드를 다시 실행하거나 위의 명령을 쓰세요.",
    "plain": """GATE 분석 가이드
(터미널에서 실행하면 대화형으로 묻고 실행합니다. 이것은 그 설명입니다.)

AVIGATE fusion을 쓴 훈련된 QD-DETR 체크포인트를 넣으면, 언제, 어디서, 얼마나 오디오를 듣는지 나옵니다.

1. 체크포인트 테스트: 쓸 수 있는지, 불러온 모델이 그대로인지 봅니다.
     python test_legacy_model.py --model_path MODEL.ckpt --data_path DATA.jsonl --lang ko
   MODEL.ckpt는 훈련이 저장한 파일(.ckpt 또는 .pth)이고, 옵션은 그 안이나 옆의 opt.json에 있습니다.
   DATA.jsonl은 QVHighlights 형식의 주석입니다. 그 옆의 특성 폴더는 이름으로 찾습니다.
   다른 곳에 있으면 --feature_root 또는 --v_feat_dirs, --t_feat_dir, --a_feat_dir로 지정하세요.

2. 분석:
     python run_gate_analysis.py --legacy_model --model_path MODEL.ckpt --data_path DATA.jsonl --max_samples 50 --lang ko
   gate_analysis_results/ANALYSIS_REPORT.md부터 보세요.

3. 모델 없이: 여기서 모두 제대로 동작하는지 확인합니다.
     python test_gate_analysis.py --quick

Gating 타입: global(비디오마다 gate 하나), clipwise(클립마다 하나), elementwise(클립과 채널마다 하나).
--gating_type은 빼세요. 모델은 훈련된 그대로 실행됩니다.

gate가 0에 가까우면 그 가지를 무시하고, 크기가 크면 사용하는 것입니다. 부호만으로는 아무것도 알 수 없습니다.

English: python legacy_model_guide.py --lang en
""",
}

CATALOGUES = {"en": EN, "ko": KO}
